"""Errors of a gateway's client, and the time that a gateway is away: reported once, retried, with a limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ocf.events.errors import OcfError

#: Seconds that a gateway may be away.
DEFAULT_PATIENCE = 600.0
#: Seconds between tries to reach a gateway again: first, and at most.
_RETRY_FIRST, _RETRY_MOST = 0.2, 5.0


class CallFailed(OcfError):
    """The gateway refused. `status` is the HTTP status, or 0."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(CallFailed):
    """No gateway is reachable now: nothing answers, or another server."""


class GaveUp(CallFailed):
    """The gateway was away for longer than the time limit. `resume` is the next sequence of a stream."""

    def __init__(self, message: str, resume: int | None = None) -> None:
        super().__init__(message)
        self.resume = resume


class Outage:
    """The time a gateway is away: reported at once, retried with growing pauses, with a time limit."""

    def __init__(
        self, patience: float, report: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._patience, self._report, self._clock = patience, report, clock
        self._pause = _RETRY_FIRST
        #: Whether the connection is lost, and was reported so.
        self.reported = False
        self.since: float | None = None
        #: The next sequence of a stream.
        self.resume: int | None = None

    async def wait(self, why: str, url: str) -> None:
        """Wait until the next try.

        Raises:
            GaveUp: it is away for too long.
        """
        if self.since is None:
            self.since = self._clock()
        left = self.since + self._patience - self._clock()
        if left <= 0:
            raise GaveUp(f"gave up after {self._patience:.0f} s: {why}", self.resume)
        if not self.reported:
            self.reported = True
            self._report(f"disconnected from {url} ({why}); reconnecting")
        await asyncio.sleep(min(self._pause, left))
        self._pause = min(self._pause * 2, _RETRY_MOST)

    def connected(self, url: str) -> None:
        """Report the reconnection; the outage ends only with the first message."""
        if self.reported:
            self.reported = False
            self._report(f"reconnected to {url}")

    def over(self) -> None:
        """End the outage."""
        self._pause, self.since = _RETRY_FIRST, None
