"""A token bucket per caller."""

from __future__ import annotations

import math
from collections import OrderedDict

from events.ports import Clock
from functions.gateway.problems import Problem

#: Callers remembered; the one seen longest ago is forgotten, which can only be in its favour.
_CALLERS = 10_000


class RateLimit:
    """`rate` requests per second and caller, `burst` at once; a rate of 0 is no limit."""

    def __init__(self, rate: int, burst: int, clock: Clock) -> None:
        self._rate = rate
        self._burst = float(max(burst, rate, 1))
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Take one token.

        Raises:
            Problem: 429 with the seconds until there is one again.
        """
        if not self._rate:
            return
        now = self._clock.monotonic()
        tokens, then = self._buckets.pop(caller, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._rate)
        if tokens < 1:
            self._buckets[caller] = (tokens, now)
            wait = math.ceil((1 - tokens) / self._rate)
            raise Problem(
                429,
                "too-many-requests",
                f"more than {self._rate} requests per second; try again in {wait} s",
                headers={"Retry-After": str(wait)},
            )
        self._buckets[caller] = (tokens - 1, now)
        if len(self._buckets) > _CALLERS:
            self._buckets.popitem(last=False)
