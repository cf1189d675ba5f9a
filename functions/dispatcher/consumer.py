"""The consume loop that nats-py lacks: pull as many as may be in flight, for ever, over reconnects."""

from __future__ import annotations

import asyncio

import structlog

from ocf.events.errors import OcfError
from ocf.events.ports import Bus, Clock, Delivery
from ocf.functions.core.cancellation import cancel_and_wait
from ocf.functions.dispatcher.delivery import Dispatcher
from ocf.functions.dispatcher.routes import Route
from ocf.functions.observability import logs, metrics

log = structlog.get_logger()

_WAIT = 5.0


class ConsumerLoop:
    """Runs one row. `stop` ends the pulling and gives what is in flight `grace` seconds."""

    def __init__(self, row: Route, dispatcher: Dispatcher, bus: Bus, clock: Clock) -> None:
        self._row = row
        self._dispatcher = dispatcher
        self._bus = bus
        self._clock = clock
        self._in_flight: set[asyncio.Task[bool]] = set()
        self._freed = asyncio.Event()

    @property
    def short(self) -> bool:
        """Whether its function answers soon (a run does not)."""
        return self._row.timeout is not None

    async def run(self) -> None:
        """Until cancelled, or until the target wants no more."""
        while not self._dispatcher.closed:
            free = self._row.in_flight - len(self._in_flight)
            if free <= 0:
                self._freed.clear()
                await self._freed.wait()
                continue
            try:
                deliveries = await self._bus.fetch(self._row.spec(), free, _WAIT)
            except Exception as error:
                log_fetch_failure(self._row.consumer, error)
                await self._clock.sleep(0.25)
                continue
            for delivery in deliveries:
                task = asyncio.create_task(dispatch_one(self._row, self._dispatcher, delivery))
                self._in_flight.add(task)
                metrics.in_flight.labels(self._row.consumer).set(len(self._in_flight))
                task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[bool]) -> None:
        self._in_flight.discard(task)
        metrics.in_flight.labels(self._row.consumer).set(len(self._in_flight))
        self._freed.set()

    async def stop(self, grace: float) -> None:
        """Let what is in flight finish; hand on what does not: it is delivered to the next dispatcher."""
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=grace)
        await cancel_and_wait(tuple(self._in_flight))


async def dispatch_one(row: Route, dispatcher: Dispatcher, delivery: Delivery) -> bool:
    """Dispatch one delivery; whether it was handled. Whatever goes wrong with it concerns no other one."""
    subject = delivery.message.subject
    try:
        return await dispatcher.dispatch(delivery)
    except Exception as error:
        # Neither acked nor naked: it is delivered again after the ack wait.
        log.warning(
            "delivery not settled",
            action="dispatch.unsettled",
            consumer=row.consumer,
            subject=subject[:300],
            reason=_reason(error),
            **logs.about(subject),
        )
        return False


def log_fetch_failure(consumer: str, error: Exception) -> None:
    """Log that a consumer could not be asked for messages; it is asked again."""
    log.warning("no messages", action="dispatch.fetch_failed", consumer=consumer, reason=_reason(error))


def _reason(error: Exception) -> str:
    """The words of our own errors. Of any other one the kind: its words may repeat what the message says."""
    return str(error) if isinstance(error, OcfError) else type(error).__name__
