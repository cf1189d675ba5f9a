"""A clock that only moves when told."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta


class ManualClock:
    """See `ocf.events.ports.Clock`. `advance` lets time pass and wakes who slept long enough."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._passed = 0.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._passed)

    def monotonic(self) -> float:
        return self._passed

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._sleepers.append((self._passed + seconds, woken))
        await woken.wait()

    @property
    def sleepers(self) -> int:
        """How many sleep now."""
        return len(self._sleepers)

    def skip(self, seconds: float) -> None:
        """Let `seconds` pass, and wake nobody."""
        self._passed += seconds

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self._passed += seconds
        for due, woken in self._sleepers:
            if due <= self._passed:
                woken.set()
        self._sleepers = [entry for entry in self._sleepers if not entry[1].is_set()]
        for _ in range(5):
            await asyncio.sleep(0)
