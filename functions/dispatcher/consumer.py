"""Consume loop: pulls as many messages as may be in flight, over reconnects, which nats-py does not offer."""

from __future__ import annotations

import asyncio

import structlog

from ocf.events.errors import OcfError
from ocf.events.ports import Bus, Clock, Delivery
from ocf.functions.core.asyncio_tasks import cancel_and_wait
from ocf.functions.dispatcher.delivery import Dispatcher
from ocf.functions.dispatcher.routes import Route
from ocf.functions.observability import logs, metrics

log = structlog.get_logger()

_WAIT = 5.0


class ConsumerLoop:
    """The loop of one route."""

    def __init__(self, route: Route, dispatcher: Dispatcher, bus: Bus, clock: Clock) -> None:
        self._route = route
        self._dispatcher = dispatcher
        self._bus = bus
        self._clock = clock
        self._in_flight: set[asyncio.Task[bool]] = set()
        self._freed = asyncio.Event()

    @property
    def short(self) -> bool:
        """Return whether the function responds soon; an execution does not."""
        return self._route.timeout is not None

    async def run(self) -> None:
        """Dispatch until cancelled, or until the target refuses further events."""
        while not self._dispatcher.closed:
            free = self._route.in_flight - len(self._in_flight)
            if free <= 0:
                self._freed.clear()
                await self._freed.wait()
                continue
            try:
                deliveries = await self._bus.fetch(self._route.spec(), free, _WAIT)
            except Exception as error:
                log_fetch_failure(self._route.consumer, error)
                await self._clock.sleep(0.25)
                continue
            for delivery in deliveries:
                task = asyncio.create_task(dispatch_one(self._route, self._dispatcher, delivery))
                self._in_flight.add(task)
                metrics.in_flight.labels(self._route.consumer).set(len(self._in_flight))
                task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[bool]) -> None:
        self._in_flight.discard(task)
        metrics.in_flight.labels(self._route.consumer).set(len(self._in_flight))
        self._freed.set()

    async def stop(self, grace: float) -> None:
        """Wait `grace` seconds for deliveries in flight; the next dispatcher gets those that are not finished."""
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=grace)
        await cancel_and_wait(tuple(self._in_flight))


async def dispatch_one(route: Route, dispatcher: Dispatcher, delivery: Delivery) -> bool:
    """Dispatch one delivery; return False if it failed. Log all errors, so that they affect no other delivery."""
    subject = delivery.message.subject
    try:
        return await dispatcher.dispatch(delivery)
    except Exception as error:
        # Neither acknowledged nor negatively acknowledged: it is redelivered after the ack wait.
        log.warning(
            "delivery not settled",
            action="dispatch.unsettled",
            consumer=route.consumer,
            subject=subject[:300],
            reason=_reason(error),
            **logs.about(subject),
        )
        return False


def log_fetch_failure(consumer: str, error: Exception) -> None:
    """Log a failed fetch; the caller repeats it."""
    log.warning("fetch failed", action="dispatch.fetch_failed", consumer=consumer, reason=_reason(error))


def _reason(error: Exception) -> str:
    """Return the message of an OcfError, else the type of the error, whose message may quote the event."""
    return str(error) if isinstance(error, OcfError) else type(error).__name__
