"""List prices of models, as data: US dollars per million tokens.

Source: the providers' public price pages (Anthropic, OpenAI) as known on 2025-11-01, standard tier, short context. A
wrong or missing price is set per deployment by giving `ModelTarget.prices`. A model that is not listed costs 0; a run
with a cost limit on it fails before it spends, so that the limit is never silently ineffective.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ocf.events.output import Usage


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens. Reasoning tokens are part of the output tokens."""

    input: float
    output: float
    cache_read: float
    cache_write: float

    def cost(self, usage: Usage) -> float:
        """Return the cost of `usage` in US dollars."""
        return (
            usage.input_tokens * self.input
            + usage.output_tokens * self.output
            + usage.cache_read_tokens * self.cache_read
            + usage.cache_write_tokens * self.cache_write
        ) / 1_000_000


def _anthropic(input: float, output: float) -> Prices:
    # Anthropic: a cache read costs a tenth of the input, a five-minute cache write a quarter more than it.
    return Prices(input, output, input * 0.1, input * 1.25)


def _openai(input: float, output: float, cached: float) -> Prices:
    # OpenAI bills writing the cache as plain input.
    return Prices(input, output, cached, input)


TABLE: dict[str, Prices] = {
    "claude-opus-4-5": _anthropic(5, 25),
    "claude-opus-4-1": _anthropic(15, 75),
    "claude-opus-4": _anthropic(15, 75),
    "claude-sonnet-4-5": _anthropic(3, 15),
    "claude-sonnet-4": _anthropic(3, 15),
    "claude-3-7-sonnet": _anthropic(3, 15),
    "claude-3-5-sonnet": _anthropic(3, 15),
    "claude-haiku-4-5": _anthropic(1, 5),
    "claude-3-5-haiku": _anthropic(0.8, 4),
    "claude-3-haiku": _anthropic(0.25, 1.25),
    "gpt-5": _openai(1.25, 10, 0.125),
    "gpt-5-codex": _openai(1.25, 10, 0.125),
    "gpt-5-mini": _openai(0.25, 2, 0.025),
    "gpt-5-nano": _openai(0.05, 0.4, 0.005),
    "gpt-4.1": _openai(2, 8, 0.5),
    "gpt-4.1-mini": _openai(0.4, 1.6, 0.1),
    "gpt-4.1-nano": _openai(0.1, 0.4, 0.025),
    "gpt-4o": _openai(2.5, 10, 1.25),
    "gpt-4o-mini": _openai(0.15, 0.6, 0.075),
    "o3": _openai(2, 8, 0.5),
    "o4-mini": _openai(1.1, 4.4, 0.275),
}

#: Dated or floating names of the same model: `-20250929`, `-2024-08-06`, `-latest`, `-0` (an alias of Anthropic's).
_VERSION = re.compile(r"(-\d{4}-?\d{2}-?\d{2}|-latest|-0)$")


def prices_for(model: str) -> Prices | None:
    """Return the list price of a model by its name at the provider; None when it is not known.

    A version suffix and a routing prefix (`anthropic/claude-...`) are ignored. Anything else must match whole:
    `gpt-5-pro` is not `gpt-5`.
    """
    name = model.rsplit("/", 1)[-1]
    return TABLE.get(name) or TABLE.get(_VERSION.sub("", name))
