"""Model catalog: facts of the models that can be asked for, by provider and model.

`catalog.ndjson` is written from the pinned OpenCode by `scripts/model_catalog.py`: its providers, and of each model the
entry of models.dev as OpenCode reads it. So the agent, the budget and every list hold the same facts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ocf.functions.models.prices import Prices, prices_of

#: API format of a model: OpenAI's chat completions and responses, Anthropic's messages, Gemini's generateContent.
Wire = Literal["chat", "responses", "messages", "gemini"]

FILE = Path(__file__).with_name("catalog.ndjson")
#: API format that each AI SDK package of OpenCode speaks. A provider with another package cannot be served.
WIRES: dict[str, Wire] = {
    "@ai-sdk/anthropic": "messages",
    "@ai-sdk/cerebras": "chat",
    "@ai-sdk/deepinfra": "chat",
    "@ai-sdk/google": "gemini",
    "@ai-sdk/groq": "chat",
    "@ai-sdk/mistral": "chat",
    "@ai-sdk/openai": "responses",
    "@ai-sdk/openai-compatible": "chat",
    "@ai-sdk/togetherai": "chat",
    "@ai-sdk/xai": "responses",
    "@openrouter/ai-sdk-provider": "chat",
}
#: Dated or floating names of the same model: `-20250929`, `-2024-08-06`, `-latest`, `-0` (an alias of Anthropic's).
_VERSION = re.compile(r"(-\d{4}-?\d{2}-?\d{2}|-latest|-0)$")


@dataclass(frozen=True)
class Provider:
    """A provider that OpenCode knows. `package` is its AI SDK package; without `base_url` it cannot be served."""

    id: str
    name: str
    package: str
    base_url: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """Facts of a model; unknown is None.

    Attributes:
        provider: provider id.
        model: the provider's name of the model.
        name: for display.
        context: tokens of input and output together.
        output: tokens of an answer.
        input: kinds of input: `text`, `image`, `pdf`, `audio`, `video`.
        reasoning: whether it reasons before it answers.
        variants: names of the variants (reasoning efforts) that a task may ask for; None: not known.
        temperature: whether it takes a temperature.
        prices: US dollars per million tokens.
        package: AI SDK package that speaks to it.
        base_url: the provider's endpoint.
        entry: the model in models.dev's format, as JSON: what OpenCode is given.
    """

    provider: str
    model: str
    name: str
    context: int | None = None
    output: int | None = None
    input: tuple[str, ...] | None = None
    reasoning: bool | None = None
    variants: tuple[str, ...] | None = None
    temperature: bool | None = None
    prices: Prices | None = None
    package: str = "@ai-sdk/openai-compatible"
    base_url: str | None = None
    entry: str = field(default="{}", repr=False)

    @property
    def wire(self) -> Wire:
        """Return the API format."""
        return WIRES[self.package]

    def described(self) -> dict[str, Any]:
        """Return the facts as `GET /models` shows them."""
        return {
            "provider": self.provider,
            "model": self.model,
            "name": self.name,
            "context": self.context,
            "output": self.output,
            "input": None if self.input is None else list(self.input),
            "reasoning": self.reasoning,
            "variants": None if self.variants is None else list(self.variants),
            "temperature": self.temperature,
            "price": None if self.prices is None else self.prices.described(),
        }


def opencode_version() -> str:
    """Return the version of OpenCode whose catalog this is."""
    with FILE.open() as file:
        return str(json.loads(file.readline())["opencode"])


@lru_cache(maxsize=1)
def providers() -> Mapping[str, Provider]:
    """Return the providers by id; those without a base URL cannot be served."""
    rows = (json.loads(line) for line in _lines('{"provider":') if not line.split(",", 2)[1].startswith('"model"'))
    return {row["provider"]: Provider(row["provider"], row["name"], row["npm"], row.get("base_url")) for row in rows}


def models(provider: str | None = None) -> Iterator[ModelFacts]:
    """Yield the models of all providers, or of one."""
    start = '{"provider":' if provider is None else f'{{"provider":{json.dumps(provider)},"model":'
    for line in _lines(start):
        if '"model":' in line.split(",", 2)[1]:
            yield _facts(json.loads(line))


@lru_cache(maxsize=256)
def find(provider: str, model: str) -> ModelFacts | None:
    """Return the facts of a model; None when the catalog does not have it.

    A version suffix is ignored where the exact name is not known. For a provider that is not in the catalog (a gateway
    of the operator's own) a routing prefix names the maker: `anthropic/claude-...`.
    """
    known = providers().get(provider)
    if known is None or known.base_url is None:
        provider, _, model = model.partition("/")
    names = (model, _VERSION.sub("", model))
    for name in dict.fromkeys(names):
        for line in _lines(f'{{"provider":{json.dumps(provider)},"model":{json.dumps(name, ensure_ascii=False)},'):
            return _facts(json.loads(line))
    return None


def _lines(start: str) -> Iterator[str]:
    """Yield the lines of the catalog that begin with `start`; only they are parsed."""
    with FILE.open() as file:
        for line in file:
            if line.startswith(start):
                yield line


def _facts(row: Mapping[str, Any]) -> ModelFacts:
    provider = providers()[row["provider"]]
    entry: dict[str, Any] = row["entry"]
    own = entry.get("provider", {})
    limit, modalities = entry.get("limit", {}), entry.get("modalities", {})
    return ModelFacts(
        provider=provider.id,
        model=row["model"],
        name=entry.get("name", row["model"]),
        context=limit.get("context") or None,
        output=limit.get("output") or None,
        input=tuple(modalities["input"]) if modalities.get("input") else None,
        reasoning=bool(entry.get("reasoning", False)),
        variants=tuple(row["variants"]),
        temperature=bool(entry.get("temperature", False)),
        prices=prices_of(entry.get("cost", {})),
        package=own.get("npm", provider.package),
        base_url=own.get("api", provider.base_url),
        entry=json.dumps(entry, ensure_ascii=False, separators=(",", ":")),
    )
