"""Times at which projects are to be pulled for messages that will be redelivered."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from ocf.events.ports import Clock

#: Seconds added to a redelivery delay, because the server's delay begins later.
_MARGIN = 0.02
_TICK = 0.05


class ScheduledPulls:
    """Calls `due(project, pulls)` at the scheduled times."""

    def __init__(self, clock: Clock, due: Callable[[str, int], None]) -> None:
        self._clock = clock
        self._due = due
        #: (monotonic time, project, number of pulls).
        self._scheduled: list[tuple[float, str, int]] = []
        self._changed = asyncio.Event()

    def schedule(self, project: str, seconds: float, pulls: int) -> None:
        """Schedule `pulls` pulls of a project in `seconds`."""
        heapq.heappush(self._scheduled, (self._clock.monotonic() + seconds + _MARGIN, project, pulls))
        self._changed.set()

    async def run(self) -> None:
        """Call `due` until cancelled."""
        while True:
            now = self._clock.monotonic()
            while self._scheduled and self._scheduled[0][0] <= now:
                _, project, pulls = heapq.heappop(self._scheduled)
                self._due(project, pulls)
            if self._scheduled:
                await self._clock.sleep(_TICK)
            else:
                self._changed.clear()
                await self._changed.wait()
