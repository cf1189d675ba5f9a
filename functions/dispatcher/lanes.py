"""Deliveries that must reach their function one after the other, in the order of the stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from events.envelope import Event
from events.ports import Clock


class _Failed(NamedTuple):
    sequence: int
    #: When it should have come again; another dispatcher has it, or it is gone from the stream.
    until: float


class Lanes:
    """One per consumer: events whose data has the same value in `field` wait for each other; all others do not.

    A delivery takes its place when it arrives, so that places are in stream order. One that has failed loses its place;
    who must not pass it meanwhile is told by `overtakes`.
    """

    def __init__(self, field: str | None, clock: Clock) -> None:
        self._field = field
        self._clock = clock
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._failed: dict[str, _Failed] = {}

    @asynccontextmanager
    async def place(self, event: Event) -> AsyncIterator[str | None]:
        """Wait for those before, then hold up those behind until left. Gives the lane's key; None: it is in none."""
        key = self._key(event)
        if key is None:
            yield None
            return
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield key
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = (lock, users - 1)

    def overtakes(self, key: str | None, sequence: int) -> bool:
        """Whether an earlier one of its lane has failed, and comes again."""
        failed = self._failed.get(key or "")
        return failed is not None and failed.sequence < sequence and failed.until > self._clock.monotonic()

    def answered(self, key: str | None, sequence: int, again: float | None) -> None:
        """Its function has said something: it comes again within so many seconds, or never (None)."""
        if key is None:
            return
        now = self._clock.monotonic()
        if again is not None:
            self._failed.pop(key, None)
            self._failed[key] = _Failed(sequence, now + again)
        elif key in self._failed and self._failed[key].sequence <= sequence:
            del self._failed[key]
        while self._failed and next(iter(self._failed.values())).until < now:
            del self._failed[next(iter(self._failed))]

    def _key(self, event: Event) -> str | None:
        """None: it need not wait. Data that lies in S3 (`dataref`) is not looked into."""
        if self._field is None or self._field.encode() not in event.data:
            return None
        try:
            value = json.loads(event.data).get(self._field)
        except (ValueError, AttributeError):
            return None  # the function says what is wrong with it
        return value if isinstance(value, str) else None
