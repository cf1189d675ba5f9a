"""Deliveries that must reach their function one after the other, in the order of the stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from events.envelope import Event


class Lanes:
    """One per consumer: events whose data has the same value in `field` wait for each other; all others do not.

    A delivery takes its place when it arrives, so that places are in stream order. One whose function failed is
    repeated later, and does not hold up those behind it.
    """

    def __init__(self, field: str | None) -> None:
        self._field = field
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def place(self, event: Event) -> AsyncIterator[None]:
        """Wait for those before, then hold up those behind until left."""
        key = self._key(event)
        if key is None:
            yield
            return
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = (lock, users - 1)

    def _key(self, event: Event) -> str | None:
        """None: it need not wait. Data that lies in S3 (`dataref`) is not looked into."""
        if self._field is None or self._field.encode() not in event.data:
            return None
        try:
            value = json.loads(event.data).get(self._field)
        except (ValueError, AttributeError):
            return None  # the function says what is wrong with it
        return value if isinstance(value, str) else None
