"""Deliveries that must reach their function one after the other, in the order of the stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ocf.events import limits
from ocf.events.delivery import NATS_SUBJECT
from ocf.events.envelope import Event
from ocf.events.errors import InvalidEvent
from ocf.events.ports import Clock
from ocf.events.subjects import project_of


class KeyedOrder:
    """One per row: events of one project whose data has the same value in `field` wait for each other; others do not.

    A delivery takes its place when it arrives, so that places are in stream order. One that has failed, or was given
    back, loses its place; who must not pass it meanwhile is told by `overtakes`.
    """

    def __init__(self, field: str | None, clock: Clock) -> None:
        self._field = field
        self._clock = clock
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        #: Of each lane, the sequences that come again, and until when: then another dispatcher has had it, or nobody.
        self._redelivering: dict[str, dict[int, float]] = {}

    @asynccontextmanager
    async def hold(self, event: Event) -> AsyncIterator[str | None]:
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

    def would_overtake(self, key: str | None, sequence: int) -> bool:
        """Whether an earlier one of its lane comes again."""
        now = self._clock.monotonic()
        return any(one < sequence and until > now for one, until in self._redelivering.get(key or "", {}).items())

    def will_be_redelivered(self, key: str | None, sequence: int, within: float) -> None:
        """It is away for at most so many seconds."""
        if key is None:
            return
        now = self._clock.monotonic()
        away = self._redelivering.pop(key, {})
        # At the end: whose lane has been quiet for longest is in front, and its rest is forgotten there.
        self._redelivering[key] = {**away, sequence: now + within}
        while max(next(iter(self._redelivering.values())).values()) < now:
            del self._redelivering[next(iter(self._redelivering))]

    def settled(self, key: str | None, sequence: int) -> None:
        """It does not come again."""
        away = self._redelivering.get(key or "", {})
        away.pop(sequence, None)
        if key is not None and not away:
            self._redelivering.pop(key, None)

    def _key(self, event: Event) -> str | None:
        """None: it need not wait. Data that lies in S3 (`dataref`) is not looked into."""
        if self._field is None or self._field.encode() not in event.data:
            return None
        try:
            data = limits.parse_json(event.data, limits.EVENT)
        except InvalidEvent:
            return None  # the function says what is wrong with it
        value = data.get(self._field) if isinstance(data, dict) else None
        return f"{project_of(event.extensions.get(NATS_SUBJECT, ''))}/{value}" if isinstance(value, str) else None
