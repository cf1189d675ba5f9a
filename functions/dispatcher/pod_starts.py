"""When the pods of functions start from zero: that of `execute` with the one of `submit`, that of `history` later.

A function without requests has no pod. An execution from zero publishes its first facts while its agent boots, and the
start of the history's pod would take a core from that boot: two seconds of processor time. Lists do not need those
facts at once, because the gateways know what was submitted in the last minute (`execution_listing.py`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import httpx2
import structlog

from ocf.events.command_publisher import NATS_SUBJECT
from ocf.events.envelope import Event
from ocf.events.event_types import TYPES
from ocf.events.ports import Clock
from ocf.events.subjects import project_of
from ocf.functions.dispatcher.delivery_result import DeliveryResult
from ocf.functions.dispatcher.http_target import Target

log = structlog.get_logger()

#: Seconds between two requests, and until one is given up.
_EVERY, _TIMEOUT = 1.0, 60.0
#: Facts of the time before the agent's first word.
_EARLY = frozenset(TYPES[f"dev.ocf.task.{verb}.v1"].type for verb in ("accepted", "started"))
#: Seconds without a delivery after which the function may have no pod, with a short `stable-window` too.
_PAUSE = 20.0
#: Seconds that the first facts wait at most: an agent's boot on two cores takes five.
_HOLD = 8.0


class Wake:
    """Sends `GET /health` to a function that may have no pod. One request at a time, and at most one per second.

    A waiting request is demand for Knative's autoscaler: a further one would start a further pod.

    Args:
        url: The function's URL.
        http: The client.
        clock: The clock.
    """

    def __init__(self, url: str, http: httpx2.AsyncClient, clock: Clock) -> None:
        self._url = f"{url.rstrip('/')}/health"
        self._http = http
        self._clock = clock
        self._not_before = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Send a request, unless the last one is not answered yet or was sent within the last second."""
        now = self._clock.monotonic()
        if now >= self._not_before and (self._task is None or self._task.done()):
            self._not_before = now + _EVERY
            self._task = asyncio.create_task(self._request())

    def stop(self) -> None:
        """Break the request off: a delivery takes its place, and the pod that it waits for."""
        if self._task is not None:
            self._task.cancel()

    async def _request(self) -> None:
        try:
            await self._http.get(self._url, timeout=_TIMEOUT)
        except httpx2.HTTPError as error:
            # The delivery itself wakes the function as well.
            log.info("function not woken", action="dispatch.not_woken", reason=str(error) or type(error).__name__)


class WakingTarget:
    """The target of submits, which wakes `execute` if `has_room` says that the project may have an execution."""

    def __init__(self, target: Target, wake: Wake, has_room: Callable[[str], bool]) -> None:
        self._target = target
        self._wake = wake
        self._has_room = has_room

    async def post(self, event: Event) -> DeliveryResult:
        """Deliver the submit."""
        if self._has_room(project_of(event.extensions[NATS_SUBJECT]) or ""):
            self._wake.start()
        return await self._target.post(event)


class WokenTarget:
    """The target of executions: the first delivery takes the place of the request that wakes."""

    def __init__(self, target: Target, wake: Wake) -> None:
        self._target = target
        self._wake = wake

    async def post(self, event: Event) -> DeliveryResult:
        """Deliver the execution."""
        self._wake.stop()
        return await self._target.post(event)


class HoldingTarget:
    """The target of facts for the history. Early facts that come after a pause wait, until another fact arrives."""

    def __init__(self, target: Target, clock: Clock) -> None:
        self._target = target
        self._clock = clock
        self._last = -math.inf
        self._released = asyncio.Event()
        self._timer: asyncio.Task[None] | None = None

    async def post(self, event: Event) -> DeliveryResult:
        """Deliver the fact, at the latest `_HOLD` seconds after the first one that followed a pause."""
        now = self._clock.monotonic()
        if now - self._last > _PAUSE:
            self._released = asyncio.Event()
            self._timer = asyncio.create_task(self._release(self._released))
        self._last = now
        if event.type not in _EARLY:
            self._released.set()
        await self._released.wait()
        self._last = self._clock.monotonic()
        return await self._target.post(event)

    async def _release(self, released: asyncio.Event) -> None:
        await self._clock.sleep(_HOLD)
        released.set()
