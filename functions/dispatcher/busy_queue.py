"""Deliveries that a busy function sent away: who waits, and who is next when a slot is free.

Asking again costs both sides a request, so that sixty who each ask every second are most of the work. A run that ends
here frees a slot at a time the dispatcher knows: it wakes the one that waits longest, at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from ocf.events.ports import Clock

#: All who wait ask again at most this often together, in questions a second.
_RECHECKS_PER_SECOND = 2.0
#: Not everybody can use every slot (a session, a quota): a free one is offered to so many before it waits to be asked.
_OFFERS = 8


class SlotQueue:
    """One per consumer. Projects take turns; within a project who waits longest is next."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: The first project is next.
        self._waiting: dict[str | None, deque[asyncio.Future[int]]] = {}

    async def wait(self, seconds: float, project: str | None = None) -> int:
        """Wait at least `seconds`, longer when many wait, or until a slot is offered.

        Returns how often the offer may still be passed on; 0 when it was no offer.
        """
        offer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project, deque()).append(offer)
        try:
            while not offer.done():
                await self._sleep(offer, seconds)
                if not offer.done():
                    # Somebody may ask again, and that is whoever's turn it is.
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
        """A slot is free, or perhaps: wake who is next."""
        if times > 0:
            self._wake(times - 1)

    def _wake(self, result: int) -> None:
        if self._waiting:
            project = next(iter(self._waiting))
            waiting = self._waiting.pop(project)
            waiting.popleft().set_result(result)
            if waiting:
                self._waiting[project] = waiting
