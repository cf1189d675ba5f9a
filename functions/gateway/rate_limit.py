"""Limits per caller on shared resources: calls per second, bytes of bodies in memory."""

from __future__ import annotations

import math
from collections import OrderedDict

from ocf.events.ports import Clock
from ocf.functions.gateway.problems import Problem

#: Callers remembered; the least recently seen is forgotten, which can only favour it.
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
            Problem: 429 with the seconds until the next token.
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


class Bodies:
    """Bytes of request bodies in memory: at most `each` per caller, `total` in all."""

    def __init__(self, each: int, total: int) -> None:
        self._each = each
        self._total = total
        self._held: dict[str, int] = {}

    @property
    def held(self) -> int:
        """Return the bytes in memory now."""
        return sum(self._held.values())

    def take(self, caller: str, size: int) -> None:
        """Charge `size` bytes to `caller`.

        Raises:
            Problem: 429 over the caller's share, 503 over the total.
        """
        if self._held.get(caller, 0) + size > self._each:
            detail = f"more than {self._each} bytes of your request bodies at once; send them one after the other"
            raise Problem(429, "too-many-requests", detail, headers={"Retry-After": "1"})
        if self.held + size > self._total:
            detail = f"more than {self._total} bytes of request bodies at once"
            raise Problem(503, "unavailable", detail, headers={"Retry-After": "1"})
        self._held[caller] = self._held.get(caller, 0) + size

    def release(self, caller: str, size: int) -> None:
        """Return `size` bytes of `caller`."""
        left = self._held[caller] - size
        if left:
            self._held[caller] = left
        else:
            del self._held[caller]
