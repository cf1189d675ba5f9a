"""One delivery: POST the event, hold its ack while the function works, turn the result into an ack."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from ocf.events import dead_letters, subjects, trace_context
from ocf.events.delivery import NATS_DELIVERIES, NATS_SEQUENCE, NATS_SUBJECT
from ocf.events.envelope import Event, bounded, decode, errors_of, quoted
from ocf.events.errors import InvalidEvent, Retry
from ocf.events.facts import FieldError
from ocf.events.ports import Bus, Clock, Delivery, Message
from ocf.functions.dispatcher.busy_queue import SlotQueue
from ocf.functions.dispatcher.http_target import Target
from ocf.functions.dispatcher.ordering import KeyedOrder
from ocf.functions.dispatcher.requeue import MAX_DELAY, RequeueBackoff
from ocf.functions.dispatcher.result import DeliveryResult
from ocf.functions.dispatcher.routes import Route, backoff
from ocf.functions.observability import logs, metrics, tracing

log = structlog.get_logger()

_SCHEDULER = "Nats-Scheduler"
_REMEMBERED = 20_000
#: How often a message may end in an error of the dispatcher's own before it is given up.
_CRASHES = 5

#: Tells those who wait for it that a message has no effect: the message, its event where it could be read, and why.
Reject = Callable[[Message, Event | None, Sequence[FieldError]], Awaitable[None]]


class Dispatcher:
    """Feeds one row of the wiring to one target. Whatever goes wrong with one message ends with that message."""

    def __init__(self, row: Route, target: Target, *, bus: Bus, clock: Clock, reject: Reject | None = None) -> None:
        self._row = row
        self._target = target
        self._bus = bus
        self._clock = clock
        self._reject = reject
        self._slot_queue = SlotQueue(clock)
        self._requeue = RequeueBackoff(clock)
        self._order = KeyedOrder(row.ordering_key, clock)
        #: How often each has failed here, by its stream sequence.
        self._failed: dict[int, int] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the target wants no more events: what is not settled stays where it is until the next start."""
        return self._closed

    async def dispatch(self, delivery: Delivery) -> bool:
        """See one delivery through: afterwards it is acked, naked or a dead letter. Whether it was handled.

        Raises:
            Retry: NATS does not result; it is delivered again after the ack wait.
        """
        message = delivery.message
        project = subjects.project_of(message.subject)
        if message.deliveries > 1 and not self._requeue.take_requeued(message.sequence, project):
            metrics.redeliveries.labels(self._row.consumer).inc()
        with structlog.contextvars.bound_contextvars(**logs.about(message.subject)):
            try:
                return await self._dispatch(delivery)
            except Retry:
                raise
            except Exception as error:
                await self._crashed(delivery, error)
                return False

    async def _dispatch(self, delivery: Delivery) -> bool:
        message = delivery.message
        try:
            event = self._event(message)
        except InvalidEvent as error:
            # Never again: what cannot be read today cannot be read tomorrow, and would only stand in the way.
            await self._dead_letter(message, None, DeliveryResult(400, str(error)), errors_of(error))
            await delivery.ack()
            return False
        with structlog.contextvars.bound_contextvars(**logs.about(message.subject, event)):
            return await self._hand_over(delivery, event)

    async def _crashed(self, delivery: Delivery, error: Exception) -> None:
        """An error of the dispatcher's own: a few more tries, then it is that message's end."""
        message = delivery.message
        crashes = self._failed[message.sequence] = self._failed.get(message.sequence, 0) + 1
        kind = type(error).__name__
        log.exception("delivery failed in the dispatcher", action="dispatch.crashed", reason=kind, crashes=crashes)
        if crashes < _CRASHES:
            await delivery.nak(backoff(crashes))
            return
        errors = [FieldError(field="event", message="could not be handled")]
        await self._dead_letter(message, None, DeliveryResult(500, f"the dispatcher failed with {kind}"), errors)
        self._forget(message)
        await delivery.ack()

    async def _hand_over(self, delivery: Delivery, event: Event) -> bool:
        heartbeat = asyncio.create_task(self._heartbeat(delivery))
        name = f"dispatch {self._row.consumer}"
        try:
            with tracing.span(name, event, {"messaging.consumer.group.name": self._row.consumer}) as current:
                async with self._order.hold(event) as key:
                    result = await self._in_order(
                        key, delivery.message, event.with_extensions(**trace_context.active())
                    )
                tracing.set_response(current, result.status, waits=result.too_early)
        finally:
            heartbeat.cancel()
        await self._settle(delivery, event, result)
        return result.done

    async def _in_order(self, key: str | None, message: Message, event: Event) -> DeliveryResult:
        """What the function says to it, unless an earlier one of its key has yet to come again."""
        sequence = message.sequence
        if self._order.would_overtake(key, sequence):
            self._order.will_be_redelivered(key, sequence, MAX_DELAY + self._row.ack_wait)
            return DeliveryResult(425, "an earlier one comes first, and has failed so far")
        result = await self._post(event)
        if result.retried and self._row.strict_order:
            self._failed[sequence] = self._failed.get(sequence, 0) + 1
        if self._row.strict_order and result.retried and not self._exhausted(message):
            # When its pause is over; from a dispatcher that dies meanwhile, when its ack is overdue.
            pause = result.pause(self._failures(message))
            self._order.will_be_redelivered(key, sequence, pause + self._row.ack_wait)
        else:
            self._order.settled(key, sequence)
        return result

    def _failures(self, message: Message) -> int:
        """How often it has failed. Where deliveries are given back only what was seen here counts: a dispatcher that is
        replaced makes more patient, and not less."""
        return self._failed.get(message.sequence, 0) if self._row.strict_order else message.deliveries

    def _exhausted(self, message: Message) -> bool:
        """Whether this was its last try."""
        return 0 < self._row.max_deliveries <= self._failures(message)

    async def _post(self, event: Event) -> DeliveryResult:
        """What the function says in the end; while it is busy, it is asked again."""
        result = await self._target.post(event)
        offers, project = 0, subjects.project_of(event.extensions.get(NATS_SUBJECT, ""))
        while result.busy:
            offers = await self._slot_queue.wait(result.retry_after, project)
            result = await self._target.post(event)
            if result.busy:
                self._slot_queue.wake_next(offers)
        if offers or not result.too_early:
            # It has ended, or was offered a slot that is not for it.
            self._slot_queue.wake_next()
        return result

    def _event(self, message: Message) -> Event:
        scheduler = message.headers.get(_SCHEDULER)
        if scheduler is not None and not scheduler.startswith("ocf.schedule."):
            # The server does not ask whether a schedule's publisher may publish to its target; it stamps who it was.
            raise InvalidEvent(f"sent by the schedule {quoted(scheduler)}; only those below ocf.schedule. count")
        event = decode(message.headers, message.data)
        if event.type not in self._row.types:
            raise InvalidEvent(f"type: {quoted(event.type)} does not belong on {message.subject[:200]}")
        # A publisher's own value of these is worth nothing: they are overwritten.
        marks = {NATS_SUBJECT: subjects.base_subject(message.subject), NATS_SEQUENCE: str(message.sequence)}
        return event.with_extensions(**marks, **{NATS_DELIVERIES: str(message.deliveries)})

    async def _heartbeat(self, delivery: Delivery) -> None:
        """Hold the ack: without it a run longer than the ack wait would be delivered again."""
        while True:
            await self._clock.sleep(self._row.ack_wait / 3)
            await delivery.in_progress()

    async def _settle(self, delivery: Delivery, event: Event, result: DeliveryResult) -> None:
        message = delivery.message
        metrics.deliveries.labels(self._row.consumer, result.kind).inc()
        if result.too_early:
            await delivery.nak(self._requeue.delay(message.sequence, subjects.project_of(message.subject)))
            return
        if result.done:
            self._forget(message)
            await delivery.ack()
            return
        if result.endpoint_gone:
            await self._close(delivery, result)
            return
        if result.retried and not self._exhausted(message):
            delay = result.pause(self._failures(message))
            log.info(
                "delivery failed, will be repeated",
                action="dispatch.retry",
                consumer=self._row.consumer,
                subject=message.subject,
                status=result.status,
                reason=result.loggable_reason[:200],
                deliveries=message.deliveries,
                delay=delay,
            )
            await delivery.nak(delay)
            return
        field = FieldError(
            field="event", message=f"was not handled in {message.deliveries} deliveries: {result.reason}"
        )
        await self._dead_letter(message, event, result, [field])
        self._forget(message)
        await delivery.ack()

    def _forget(self, message: Message) -> None:
        """Its failures; and those of what another dispatcher has settled, in the end."""
        self._failed.pop(message.sequence, None)
        while len(self._failed) > _REMEMBERED:
            del self._failed[next(iter(self._failed))]

    async def _close(self, delivery: Delivery, result: DeliveryResult) -> None:
        """410 Gone: nothing more is sent (Standard Webhooks 1.0.0), and nothing is lost should it be a mistake."""
        self._closed = True
        metrics.sinks_closed.labels(self._row.consumer).set(1)
        log.warning(
            "the sink says it is endpoint_gone; nothing is sent to it until the next start",
            action="dispatch.sink_gone",
            consumer=self._row.consumer,
            reason=result.loggable_reason[:200],
        )
        await delivery.nak(result.pause(1))

    async def _dead_letter(
        self, message: Message, event: Event | None, result: DeliveryResult, errors: Sequence[FieldError]
    ) -> None:
        """Say that it has no effect, and keep it in `OCF_DLQ`: as it came, or without its data where it has no
        `event`. Only then is it acked."""
        await self._publish_rejection(message, event, bounded(list(errors)))
        subject, data, headers = dead_letters.compose(
            self._row.consumer,
            message,
            status=result.status,
            reason=result.reason,
            at=self._clock.now(),
            with_data=event is not None,
        )
        await self._bus.publish(subject, data, headers)
        metrics.dead_letters.labels(self._row.consumer).inc()
        log.warning(
            "dead letter",
            action="dispatch.dead_letter",
            consumer=self._row.consumer,
            subject=message.subject[:300],
            status=result.status,
            reason=result.loggable_reason[:500],
        )

    async def _publish_rejection(self, message: Message, event: Event | None, errors: Sequence[FieldError]) -> None:
        if self._reject is None or _SCHEDULER in message.headers:
            return  # whoever made that schedule may be a stranger to the execution
        try:
            await self._reject(message, event, errors)
        except Retry:
            raise
        except Exception as error:
            # The dead letter is still to be written.
            log.exception("rejection not said", action="dispatch.reject_failed", reason=type(error).__name__)
