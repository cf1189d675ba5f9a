"""Usage and limits of an execution, and the hooks that report model calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from ocf.events.command_payloads import Limits
from ocf.events.lifecycle import Reason
from ocf.events.output import Usage
from ocf.functions.models.prices import Prices
from ocf.functions.recording.playback import Answer


@dataclass(frozen=True)
class ModelProxyFailure:
    """Why the execution must end as failed."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Call:
    """One model call, for tracing. Times in seconds, `started_at` of the monotonic clock.

    At its start only the first four fields have a meaning. `tries` counts requests to the provider, `estimated` states
    that the provider reported no usage. Outcomes: `ok`; `passed` (the provider's 4xx was forwarded to the agent);
    `failed`; `cut` (the stream broke off); `refused` (ended by cancel, budget or end); `gone` (the agent hung up).
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
    """Do nothing."""


@dataclass(frozen=True)
class Hooks:
    """Listeners. All are called in the event loop, and all but `before_answer` must return at once.

    Attributes:
        on_activity: a request arrived, a provider answered, or a piece of an answer passed.
        on_call_start: for tracing.
        on_call_end: for tracing.
        on_usage: the totals have changed.
        on_failure: the execution must end; called once.
        on_over: a rerun has come to the end of its recording.
        before_answer: awaited before the agent gets any answer.
    """

    on_activity: Callable[[], None] = _nothing
    on_call_start: Callable[[Call], None] = _nothing
    on_call_end: Callable[[Call], None] = _nothing
    on_usage: Callable[[Usage], None] = _nothing
    on_failure: Callable[[ModelProxyFailure], None] = _nothing
    on_over: Callable[[Answer], None] = _nothing
    before_answer: Callable[[], Awaitable[None]] | None = None


@dataclass(eq=False)
class Reservation:
    """Maximum expected usage of a running call, and its usage so far."""

    estimate: Usage
    live: Usage = field(default_factory=Usage)


class Budget:
    """Totals of one execution, compared with its limits. They begin with `used`.

    A call reserves its estimate before it is sent, and waits while it does not fit beside the running ones: many calls
    at once cannot exceed a limit that each alone would respect. A call that runs alone needs only some budget; it is
    cut where it exceeds the limit.
    """

    def __init__(self, limits: Limits, prices: Prices | None, used: Usage | None = None) -> None:
        self._tokens = limits.max_total_tokens
        self._cost = limits.max_cost_usd
        self._prices = prices
        self._running: list[Reservation] = []
        self._settled = asyncio.Event()
        self.usage = used or Usage()

    def cost(self, usage: Usage) -> float:
        """Return US dollars; 0 where the model's price is not known."""
        return self._prices.cost(usage) if self._prices else 0.0

    def request(self) -> None:
        """Count one more request."""
        self.usage = self.usage.model_copy(update={"requests": self.usage.requests + 1})

    @asynccontextmanager
    async def reserved(self, estimate: Usage) -> AsyncIterator[Reservation]:
        """Reserve `estimate` for a call; wait until it fits beside the running calls, or none runs."""
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
        """Add the usage of one call."""
        self.usage = self._sum(usage)
        self.usage = self.usage.model_copy(update={"cost_usd": round(self.usage.cost_usd, 9)})

    def _sum(self, *usages: Usage) -> Usage:
        """Return the totals with `usages` added, each at its price."""
        fields = ("input_tokens", "output_tokens", "reasoning_tokens", "cache_read_tokens", "cache_write_tokens")
        total = {name: getattr(self.usage, name) + sum(getattr(usage, name) for usage in usages) for name in fields}
        cost = self.usage.cost_usd + sum(map(self.cost, usages))
        return self.usage.model_copy(update={**total, "cost_usd": cost})

    def _passes(self, *usages: Usage) -> str | None:
        """Return the limit that the totals with `usages` exceed; None when none."""
        total = self._sum(*usages)
        if self._tokens is not None and total.total_tokens > self._tokens:
            return "limits.max_total_tokens"
        if self._cost is not None and total.cost_usd > self._cost:
            return "limits.max_cost_usd"
        return None

    def passed_by_running(self) -> str | None:
        """Return the limit that the totals exceed with the running calls' usage so far; None when none."""
        return self._passes(*(call.live for call in self._running))

    def exceeded(self) -> str | None:
        """Return a message naming the limit that the totals exceed; None when none."""
        if self._tokens is not None and self.usage.total_tokens > self._tokens:
            return f"limits.max_total_tokens is {self._tokens}, and {self.usage.total_tokens} tokens were used"
        if self._cost is not None and self.usage.cost_usd > self._cost:
            return f"limits.max_cost_usd is {self._cost:g}, and ${self.usage.cost_usd:.4f} was spent"
        return None

    def spent(self) -> str | None:
        """Return a message naming the limit that leaves nothing for another call; None when none."""
        if self._tokens is not None and self.usage.total_tokens >= self._tokens:
            return f"limits.max_total_tokens is {self._tokens}, and all of it is used"
        if self._cost is not None and self.usage.cost_usd >= self._cost:
            return f"limits.max_cost_usd is {self._cost:g}, and all of it is spent"
        return None

    def tokens_left(self) -> int | None:
        """Return the tokens left below all limits; None when nothing limits them."""
        left = [] if self._tokens is None else [self._tokens - self.usage.total_tokens]
        if self._cost is not None and self._prices is not None and self._prices.output > 0:
            left.append(int((self._cost - self.usage.cost_usd) / self._prices.output * 1_000_000))
        return min(left, default=None)
