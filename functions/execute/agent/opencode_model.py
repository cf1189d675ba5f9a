"""A model as OpenCode gets it: an entry of the catalog that it reads at start."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ocf.functions.models.model_target import PACKAGES, UNKNOWN, Kind, ModelTarget

#: OpenCode takes up what it knows of a built-in provider (its headers, its way to call a model) only when the key
#: variable of the provider is set.
TOKEN = "OCF_MODELTOKEN"  # noqa: S105 - a name


@dataclass(frozen=True)
class AgentModel:
    """A model as OpenCode gets it.

    `temperature` and `max_tokens` are the caller's; the model proxy sets them as well, so that they apply in a warm
    server. `built_in` is OpenCode's own provider id; None: a provider of ours. `entry` is the model in models.dev's
    format, as JSON.
    """

    kind: Kind
    name: str
    temperature: float | None = None
    max_tokens: int | None = None
    built_in: str | None = None
    package: str | None = None
    entry: str = json.dumps(UNKNOWN)

    @classmethod
    def of(cls, target: ModelTarget) -> AgentModel:
        """Return the model of a target, without the caller's values."""
        return cls(
            target.kind,
            target.wire_model,
            built_in=target.agent_provider,
            package=target.agent_package,
            entry=target.agent_entry(),
        )

    def taking(self, kinds: Collection[str]) -> AgentModel:
        """Return a model that also takes these kinds of input."""
        entry = json.loads(self.entry)
        known = entry.get("modalities", {}).get("input", [])
        if not (more := sorted(set(kinds).difference(known))):
            return self
        modalities = {**entry.get("modalities", {}), "input": [*known, *more]}
        return replace(self, entry=json.dumps({**entry, "attachment": True, "modalities": modalities}))

    @property
    def provider(self) -> str:
        """Return OpenCode's provider id: its own, or one of ours per API format. All are served by the model proxy."""
        return self.built_in or f"ocf-{self.kind}"


def model_catalog(models: Sequence[AgentModel]) -> dict[str, object]:
    """Return a catalog of these models in models.dev's format (https://models.dev/api.json)."""
    providers: dict[str, dict[str, Any]] = {}
    for model in models:
        entry = json.loads(model.entry)
        entry = {**entry, "id": model.name, "name": entry.get("name", model.name)}
        if model.max_tokens is not None:
            entry["limit"] = {**entry["limit"], "output": model.max_tokens}
        package = model.package or PACKAGES[model.kind]
        # OpenCode's provider has one package; a model of another one names it.
        empty = {"id": model.provider, "name": model.provider, "env": [TOKEN], "npm": package, "models": {}}
        provider = providers.setdefault(model.provider, empty)
        if package != provider["npm"]:
            entry["provider"] = {"npm": package}
        provider["models"][model.name] = entry
    return dict(providers)
