"""What an execution has used, what it may use, and what is told about each model call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from events.lifecycle import Reason
from events.models import Limits
from events.output import Usage
from functions.models.prices import Prices


@dataclass(frozen=True)
class BrokerFailure:
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
    on_failure: Callable[[BrokerFailure], None] = _nothing


class Account:
    """Totals of one execution, held against its limits. They begin with what was `used` before."""

    def __init__(self, limits: Limits, prices: Prices | None, used: Usage | None = None) -> None:
        self._tokens = limits.max_total_tokens
        self._cost = limits.max_cost_usd
        self._prices = prices
        self.usage = used or Usage()

    def cost(self, usage: Usage) -> float:
        """US dollars; 0 where the model's price is not known."""
        return self._prices.cost(usage) if self._prices else 0.0

    def request(self) -> None:
        """One more request has gone out."""
        self.usage = self.usage.model_copy(update={"requests": self.usage.requests + 1})

    def add(self, usage: Usage) -> None:
        """Add what one call has used."""
        fields = ("input_tokens", "output_tokens", "reasoning_tokens", "cache_read_tokens", "cache_write_tokens")
        total = {name: getattr(self.usage, name) + getattr(usage, name) for name in fields}
        cost = round(self.usage.cost_usd + self.cost(usage), 9)
        self.usage = self.usage.model_copy(update={**total, "cost_usd": cost})

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

    def live_tokens_left(self) -> int | None:
        """Tokens a running call may still use, counted without those of other calls that run."""
        return None if self._tokens is None else self._tokens - self.usage.total_tokens

    def live_cost_left(self) -> float | None:
        """US dollars a running call may still cost; None when nothing bounds it or the price is unknown."""
        return None if self._cost is None or self._prices is None else self._cost - self.usage.cost_usd
