"""The consume loop that nats-py lacks: pull as many as may be in flight, for ever, over reconnects."""

from __future__ import annotations

import asyncio

import structlog

from events.errors import OcfError, Unavailable
from events.ports import Bus, Clock, Delivery
from functions import logs, metrics
from functions.common.tasks import end
from functions.dispatcher.dispatch import Dispatcher
from functions.dispatcher.wiring import Row

log = structlog.get_logger()

_WAIT = 5.0


class Loop:
    """Runs one row. `stop` ends the pulling and gives what is in flight `grace` seconds."""

    def __init__(self, row: Row, dispatcher: Dispatcher, bus: Bus, clock: Clock) -> None:
        self._row = row
        self._dispatcher = dispatcher
        self._bus = bus
        self._clock = clock
        self._in_flight: set[asyncio.Task[None]] = set()
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
            except Unavailable as error:
                log.warning(
                    "no messages", action="dispatch.fetch_failed", consumer=self._row.consumer, reason=str(error)
                )
                await self._clock.sleep(0.25)
                continue
            for delivery in deliveries:
                task = asyncio.create_task(self._see_through(delivery))
                self._in_flight.add(task)
                metrics.in_flight.labels(self._row.consumer).set(len(self._in_flight))
                task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        metrics.in_flight.labels(self._row.consumer).set(len(self._in_flight))
        self._freed.set()

    async def _see_through(self, delivery: Delivery) -> None:
        try:
            await self._dispatcher.dispatch(delivery)
        except Exception as error:
            # Neither acked nor naked: it is delivered again after the ack wait. Nothing of it may end the loop, or be
            # left to asyncio, which would log the exception with what it quotes.
            log.warning(
                "delivery not settled",
                action="dispatch.unsettled",
                consumer=self._row.consumer,
                subject=delivery.message.subject[:300],
                reason=str(error) if isinstance(error, OcfError) else type(error).__name__,
                **logs.about(delivery.message.subject),
            )

    async def stop(self, grace: float) -> None:
        """Let what is in flight finish; hand on what does not: it is delivered to the next dispatcher."""
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=grace)
        await end(tuple(self._in_flight))
