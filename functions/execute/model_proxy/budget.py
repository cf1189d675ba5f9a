"""What an execution has used, what it may use, and what is told about each model call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from ocf.events.commands import Limits
from ocf.events.lifecycle import Reason
from ocf.events.output import Usage
from ocf.functions.models.prices import Prices


@dataclass(frozen=True)
class ModelProxyFailure:
    """Why the execution must end as failed."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Call:
    """One model call, for tracing. Times in seconds, `started_at` of the monotonic clock.

    At its start only the first four fields mean anything. `tries` counts requests to the provider, `estimated` says
    that the provider reported no usage. Outcomes: `ok`; `passed` (the provider's 4xx went to the agent); `failed`;
    `cut` (the stream broke off); `refused` (ended by cancel, budget or end); `gone` (the agent hung up).
    """

    number: int
    model: str
    provider: str
    started_at: float
    tries: int = 0
    status: int | None = None
    first_byte_seconds: float | None = None
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)
    estimated: bool = False
    outcome: Literal["ok", "passed", "failed", "cut", "refused", "gone"] | None = None


def _nothing(*_: object) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Hooks:
    """Who wants to know. All are called in the event loop and must return at once.

    on_activity: a request came, a provider answered, a piece of an answer passed: the model is at work.
    on_call_start, on_call_end: for tracing.
    on_usage: the totals have changed.
    on_failure: the execution must end; called once.
    """

    on_activity: Callable[[], None] = _nothing
    on_call_start: Callable[[Call], None] = _nothing
    on_call_end: Callable[[Call], None] = _nothing
    on_usage: Callable[[Usage], None] = _nothing
    on_failure: Callable[[ModelProxyFailure], None] = _nothing


@dataclass(eq=False)
class Reservation:
    """What a call that runs is expected to use at most, and what it has used so far."""

    estimate: Usage
    live: Usage = field(default_factory=Usage)


class Budget:
    """Totals of one execution, held against its limits. They begin with what was `used` before.

    A call reserves its estimate before it goes out, and one that does not fit beside those that run waits for them: so
    many calls at once cannot pass a limit that each of them alone would keep. One that runs alone needs only some
    budget; it is cut where it passes the limit.
    """

    def __init__(self, limits: Limits, prices: Prices | None, used: Usage | None = None) -> None:
        self._tokens = limits.max_total_tokens
        self._cost = limits.max_cost_usd
        self._prices = prices
        self._running: list[Reservation] = []
        self._settled = asyncio.Event()
        self.usage = used or Usage()

    def cost(self, usage: Usage) -> float:
        """US dollars; 0 where the model's price is not known."""
        return self._prices.cost(usage) if self._prices else 0.0

    def request(self) -> None:
        """One more request has gone out."""
        self.usage = self.usage.model_copy(update={"requests": self.usage.requests + 1})

    @asynccontextmanager
    async def reserved(self, estimate: Usage) -> AsyncIterator[Reservation]:
        """Room for a call that may use `estimate`; waits until it fits beside those that run, or none does."""
        while self._running and self._passes(estimate, *(call.estimate for call in self._running)):
            self._settled.clear()
            await self._settled.wait()
        reservation = Reservation(estimate)
        self._running.append(reservation)
        try:
            yield reservation
        finally:
            self._running.remove(reservation)
            self._settled.set()

    def add(self, usage: Usage) -> None:
        """Add what one call has used."""
        self.usage = self._sum(usage)
        self.usage = self.usage.model_copy(update={"cost_usd": round(self.usage.cost_usd, 9)})

    def _sum(self, *usages: Usage) -> Usage:
        """The totals with `usages`, each at its price."""
        fields = ("input_tokens", "output_tokens", "reasoning_tokens", "cache_read_tokens", "cache_write_tokens")
        total = {name: getattr(self.usage, name) + sum(getattr(usage, name) for usage in usages) for name in fields}
        cost = self.usage.cost_usd + sum(map(self.cost, usages))
        return self.usage.model_copy(update={**total, "cost_usd": cost})

    def _passes(self, *usages: Usage) -> str | None:
        """The limit that the totals with `usages` are over."""
        total = self._sum(*usages)
        if self._tokens is not None and total.total_tokens > self._tokens:
            return "limits.max_total_tokens"
        if self._cost is not None and total.cost_usd > self._cost:
            return "limits.max_cost_usd"
        return None

    def passed_by_running(self) -> str | None:
        """The limit that the totals are over with what the running calls have used so far."""
        return self._passes(*(call.live for call in self._running))

    def exceeded(self) -> str | None:
        """The limit that the totals are over, in words."""
        if self._tokens is not None and self.usage.total_tokens > self._tokens:
            return f"limits.max_total_tokens is {self._tokens}, and {self.usage.total_tokens} tokens were used"
        if self._cost is not None and self.usage.cost_usd > self._cost:
            return f"limits.max_cost_usd is {self._cost:g}, and ${self.usage.cost_usd:.4f} was spent"
        return None

    def spent(self) -> str | None:
        """The limit that leaves nothing for another call, in words."""
        if self._tokens is not None and self.usage.total_tokens >= self._tokens:
            return f"limits.max_total_tokens is {self._tokens}, and all of it is used"
        if self._cost is not None and self.usage.cost_usd >= self._cost:
            return f"limits.max_cost_usd is {self._cost:g}, and all of it is spent"
        return None

    def tokens_left(self) -> int | None:
        """Tokens that no limit holds back yet; None when nothing bounds them."""
        left = [] if self._tokens is None else [self._tokens - self.usage.total_tokens]
        if self._cost is not None and self._prices is not None and self._prices.output > 0:
            left.append(int((self._cost - self.usage.cost_usd) / self._prices.output * 1_000_000))
        return min(left, default=None)
