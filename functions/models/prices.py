"""Prices of a model, in US dollars per million tokens.

They come from the catalog, from the task's `model_config.facts`, or from the operator's file. A model without a known
price costs 0; a run with a cost limit on it fails before it spends, so that the limit is never silently ineffective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ocf.events.output import Usage

UNIT = "USD per million tokens"


@dataclass(frozen=True)
class Rates:
    """US dollars per million tokens. Reasoning tokens are part of the output tokens.

    An unknown cache price is None: what the cache holds is then charged as plain input, which it never exceeds by much.
    """

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None

    def cost(self, usage: Usage) -> float:
        """Return the cost of `usage` in US dollars."""
        return (
            usage.input_tokens * self.input
            + usage.output_tokens * self.output
            + usage.cache_read_tokens * (self.input if self.cache_read is None else self.cache_read)
            + usage.cache_write_tokens * (self.input if self.cache_write is None else self.cache_write)
        ) / 1_000_000

    def described(self) -> dict[str, Any]:
        """Return the rates as `GET /models` shows them."""
        return {
            "input": self.input, "output": self.output, "cache_read": self.cache_read, "cache_write": self.cache_write,
        }  # fmt: skip


@dataclass(frozen=True)
class Prices(Rates):
    """Rates of a model. `tiers` are (tokens, rates): calls with more tokens of input than that cost these rates."""

    tiers: tuple[tuple[int, Rates], ...] = ()

    def cost(self, usage: Usage) -> float:
        """Return the cost of one call in US dollars."""
        context = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        rates = Rates(self.input, self.output, self.cache_read, self.cache_write)
        for above, dearer in self.tiers:
            if context > above:
                rates = dearer
        return rates.cost(usage)

    def described(self) -> dict[str, Any]:
        """Return the prices as `GET /models` shows them."""
        tiers = [{"above": above, **rates.described()} for above, rates in self.tiers]
        return {**super().described(), "tiers": tiers, "unit": UNIT}


def prices_of(cost: Mapping[str, Any]) -> Prices | None:
    """Return the prices in a `cost` of models.dev, whose 0 means unknown; None without a price for input and output."""
    rates = _rates(cost)
    if rates is None:
        return None
    tiers = [
        (int(tier["tier"]["size"]), found)
        for tier in cost.get("tiers", ())
        if tier["tier"]["type"] == "context" and (found := _rates(tier)) is not None
    ]
    return Prices(rates.input, rates.output, rates.cache_read, rates.cache_write, tuple(sorted(tiers, key=_above)))


def _above(tier: tuple[int, Rates]) -> int:
    return tier[0]


def _rates(cost: Mapping[str, Any]) -> Rates | None:
    known = {name: float(cost[name]) for name in ("input", "output", "cache_read", "cache_write") if cost.get(name)}
    return Rates(**known) if {"input", "output"} <= known.keys() else None
