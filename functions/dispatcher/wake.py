"""Wakes the functions of the next step when a submit arrives, so that their pods start beside the one of `submit`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import httpx2
import structlog

from ocf.events.command_publisher import NATS_SUBJECT
from ocf.events.envelope import Event
from ocf.events.ports import Clock
from ocf.events.subjects import project_of
from ocf.functions.dispatcher.http_target import Target
from ocf.functions.dispatcher.result import DeliveryResult

log = structlog.get_logger()

#: Seconds between two requests, and until one is given up.
_EVERY, _TIMEOUT = 1.0, 60.0


class Wake:
    """Sends `GET /health` to functions that have no pod. One request at a time, and at most one per second.

    A waiting request is demand for Knative's autoscaler: more of them would start more pods than there are submits.

    Args:
        urls: The functions' URLs.
        http: The client.
        clock: The clock.
    """

    def __init__(self, urls: Sequence[str], http: httpx2.AsyncClient, clock: Clock) -> None:
        self._urls = tuple(urls)
        self._http = http
        self._clock = clock
        self._not_before = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """Send the requests, unless the last ones are not answered yet or were sent within the last second."""
        now = self._clock.monotonic()
        if self._tasks or now < self._not_before:
            return
        self._not_before = now + _EVERY
        for url in self._urls:
            task = asyncio.create_task(self._request(url))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _request(self, url: str) -> None:
        try:
            await self._http.get(f"{url.rstrip('/')}/health", timeout=_TIMEOUT)
        except httpx2.HTTPError as error:
            # The delivery itself wakes the function as well.
            log.info("function not woken", action="dispatch.not_woken", reason=str(error) or type(error).__name__)


class WakingTarget:
    """The target of submits, which wakes functions if the submit's project may have a further execution now.

    `has_room` returns whether a project may.
    """

    def __init__(self, target: Target, wake: Wake, has_room: Callable[[str], bool]) -> None:
        self._target = target
        self._wake = wake
        self._has_room = has_room

    async def post(self, event: Event) -> DeliveryResult:
        """Deliver the submit."""
        if self._has_room(project_of(event.extensions[NATS_SUBJECT]) or ""):
            self._wake.wake()
        return await self._target.post(event)
