"""Queue of deliveries that a busy function refused with 429, and their order when a slot becomes free.

Each retry costs both sides a request; sixty deliveries that retry every second would be most of the load. When an
execution ends, the dispatcher knows that a slot is free, and wakes the next delivery at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from ocf.events.ports import Clock

#: Retries per second over all waiting deliveries.
_RECHECKS_PER_SECOND = 2.0
#: Deliveries that are offered the same free slot before it stays free: not each can use it (its session, a quota).
_OFFERS = 8


class SlotQueue:
    """Waiting deliveries of one consumer. Projects take turns; within a project the longest wait is next."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Waiting deliveries by project; the first project is next.
        self._waiting: dict[str | None, deque[asyncio.Future[int]]] = {}

    async def wait(self, seconds: float, project: str | None = None) -> int:
        """Wait at least `seconds` (longer if many wait), or until a slot is offered.

        Returns:
            How many further deliveries may be offered the same slot; 0 if no slot was offered.
        """
        offer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project, deque()).append(offer)
        try:
            while not offer.done():
                await self._sleep(offer, seconds)
                if not offer.done():
                    # A retry is due; it belongs to the next delivery in order.
                    self._wake(0)
            return offer.result()
        finally:
            if not offer.done():
                self._waiting[project].remove(offer)
                if not self._waiting[project]:
                    del self._waiting[project]

    async def _sleep(self, offer: asyncio.Future[int], seconds: float) -> None:
        many = sum(len(each) for each in self._waiting.values())
        asleep = asyncio.ensure_future(self._clock.sleep(max(seconds, many / _RECHECKS_PER_SECOND)))
        try:
            both: tuple[asyncio.Future[Any], ...] = (offer, asleep)
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asleep.cancel()

    def wake_next(self, times: int = _OFFERS) -> None:
        """Wake the next delivery, because a slot is free or may be. `times` bounds the offers of the same slot."""
        if times > 0:
            self._wake(times - 1)

    def _wake(self, result: int) -> None:
        if self._waiting:
            project = next(iter(self._waiting))
            waiting = self._waiting.pop(project)
            waiting.popleft().set_result(result)
            if waiting:
                self._waiting[project] = waiting
