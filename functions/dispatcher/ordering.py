"""Ordered delivery: messages with the same key reach their function one by one, in the order of the stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ocf.events import untrusted_json
from ocf.events.command_publisher import NATS_SUBJECT
from ocf.events.envelope import Event
from ocf.events.ports import Clock
from ocf.events.subjects import project_of


class KeyedOrder:
    """Order of a route's events. The key is the project and the value of `field` in the data.

    Deliveries wait in the order of their arrival, which is stream order. A failed or requeued delivery loses its place;
    `would_overtake()` returns whether a later one would pass it.
    """

    def __init__(self, field: str | None, clock: Clock) -> None:
        self._field = field
        self._clock = clock
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        #: By key: the sequences to be redelivered, and the time by which that must have happened (monotonic seconds).
        self._redelivering: dict[str, dict[int, float]] = {}

    @asynccontextmanager
    async def hold(self, event: Event) -> AsyncIterator[str | None]:
        """Wait for earlier events of the same key, and block later ones while the context is open.

        Yields:
            The key, or None for an event without one, which does not wait.
        """
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
        """Return whether an earlier event of the key is still to be redelivered."""
        now = self._clock.monotonic()
        return any(one < sequence and until > now for one, until in self._redelivering.get(key or "", {}).items())

    def will_be_redelivered(self, key: str | None, sequence: int, within: float) -> None:
        """Record that an event will be redelivered within so many seconds."""
        if key is None:
            return
        now = self._clock.monotonic()
        pending = self._redelivering.pop(key, {})
        # Append the key at the end, so that the oldest keys are first, and remove those that are overdue.
        self._redelivering[key] = {**pending, sequence: now + within}
        while max(next(iter(self._redelivering.values())).values()) < now:
            del self._redelivering[next(iter(self._redelivering))]

    def settled(self, key: str | None, sequence: int) -> None:
        """Record that an event will not be redelivered."""
        pending = self._redelivering.get(key or "", {})
        pending.pop(sequence, None)
        if key is not None and not pending:
            self._redelivering.pop(key, None)

    def _key(self, event: Event) -> str | None:
        """Return the key of an event, or None. Data in S3 (`dataref`) is not read; invalid data is the function's."""
        value = None if self._field is None else untrusted_json.text_member(event.data, self._field)
        if value is None:
            return None
        return f"{project_of(event.extensions.get(NATS_SUBJECT, ''))}/{value}"
