"""Deliveries that a busy function sent away: who waits, and who is next when a slot is free.

Asking again costs both sides a request, so that sixty who each ask every second are most of the work. A run that ends
here frees a slot at a time the dispatcher knows: it wakes the one that waits longest, at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from events.ports import Clock

#: All who wait ask again at most this often together, in questions a second.
_QUESTIONS = 2.0
#: Not everybody can use every slot (a session, a quota): a free one is offered to so many before it waits to be asked.
_OFFERS = 8


class Line:
    """One per consumer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: deque[asyncio.Future[int]] = deque()

    async def wait(self, seconds: float) -> int:
        """Wait at least `seconds`, longer when many wait, or until a slot is offered.

        Returns how often the offer may still be passed on; 0 when it was no offer.
        """
        offer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(offer)
        asleep = asyncio.ensure_future(self._clock.sleep(max(seconds, len(self._waiting) / _QUESTIONS)))
        try:
            both: tuple[asyncio.Future[Any], ...] = (offer, asleep)
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            return offer.result() if offer.done() else 0
        finally:
            asleep.cancel()
            if not offer.done():
                self._waiting.remove(offer)

    def offer(self, times: int = _OFFERS) -> None:
        """A slot is free, or perhaps: wake who waits longest."""
        if times > 0 and self._waiting:
            self._waiting.popleft().set_result(times - 1)
