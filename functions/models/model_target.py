"""Model of an execution, after resolution."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import SecretStr

from ocf.functions.models.catalog import ModelFacts
from ocf.functions.models.prices import Prices

#: The family of API formats: OpenAI's chat completions and responses and compatible ones, Anthropic's messages,
#: Gemini's generateContent.
Kind = Literal["openai", "anthropic", "google"]
#: What the agent assumes about a model of which nothing is known.
UNKNOWN: dict[str, Any] = {
    "tool_call": True,
    "temperature": True,
    "modalities": {"input": ["text"], "output": ["text"]},
    "limit": {"context": 200_000, "output": 32_000},
}
#: AI SDK package of the agent for each API format.
PACKAGES: dict[Kind, str] = {
    "openai": "@ai-sdk/openai-compatible",
    "anthropic": "@ai-sdk/anthropic",
    "google": "@ai-sdk/google",
}


@dataclass(frozen=True)
class ModelTarget:
    """Everything the model proxy needs to reach a model, and the caller's settings for it.

    `base_url` ends with the version segment (`.../v1`) and without a slash. `offline` marks the scripted model: every
    screen must show that. `provider_tools` are types of the provider's own tools that the operator allows. `facts` are
    those of the catalog, the task or the operator; `package` is the AI SDK package that the agent uses for it, None:
    the usual one of `kind`.
    """

    provider: str
    model: str
    kind: Kind
    base_url: str
    api_key: SecretStr | None = None
    model_version: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    enabled_tools: tuple[str, ...] | None = None
    system_prompt: str | None = None
    prices: Prices | None = None
    offline: bool = False
    provider_tools: tuple[str, ...] = ()
    facts: ModelFacts | None = None
    package: str | None = None

    @property
    def wire_model(self) -> str:
        """Return the provider's name of the model: `model-version`, or the version alone if it is the whole name."""
        if not self.model_version:
            return self.model
        if self.model_version.startswith(self.model):
            return self.model_version
        return f"{self.model}-{self.model_version}"

    @property
    def display_name(self) -> str:
        """Return the name for display, with the mark of the offline model."""
        name = f"{self.provider}/{self.wire_model}"
        return f"{name} (offline scripted model)" if self.offline else name

    @property
    def agent_package(self) -> str:
        """Return the AI SDK package that the agent uses for it."""
        return self.package or PACKAGES[self.kind]

    @property
    def agent_provider(self) -> str:
        """Return the agent's provider id: its built-in one where that speaks this API format, else one of ours."""
        built_in = self.facts is not None and self.facts.package == self.agent_package and self.facts.base_url
        return self.facts.provider if self.facts is not None and built_in else f"ocf-{self.kind}"

    def agent_entry(self) -> str:
        """Return the model's entry in models.dev's format, as JSON."""
        entry = dict(UNKNOWN) if self.facts is None else json.loads(self.facts.entry)
        entry.pop("provider", None)
        return json.dumps({**entry, "id": self.wire_model, "name": entry.get("name", self.wire_model)})
