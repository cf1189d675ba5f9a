"""One delivery: POST the event, extend its ack wait while the function works, and settle it by the response."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from ocf.events import dead_letters, subjects
from ocf.events.command_publisher import NATS_DELIVERIES, NATS_SCHEDULER, NATS_SEQUENCE, NATS_SUBJECT
from ocf.events.envelope import Event, bounded, decode, errors_of, quoted
from ocf.events.errors import InvalidEvent, Retry
from ocf.events.fact_payloads import FieldError
from ocf.events.ports import Bus, Clock, Delivery, Message
from ocf.functions.dispatcher.delivery_result import DeliveryResult
from ocf.functions.dispatcher.http_target import Target
from ocf.functions.dispatcher.ordering import KeyedOrder
from ocf.functions.dispatcher.requeue_backoff import MAX_DELAY, RequeueBackoff
from ocf.functions.dispatcher.routes import Route, backoff
from ocf.functions.dispatcher.slot_queue import SlotQueue
from ocf.functions.observability import logs, metrics, tracing

log = structlog.get_logger()

_SCHEDULER = "Nats-Scheduler"
_REMEMBERED = 20_000
#: Failures of a message in the dispatcher itself until it becomes a dead letter.
_CRASHES = 5

#: Publishes the rejection of a command. Arguments: the message, its event if it could be decoded, and the errors.
Reject = Callable[[Message, Event | None, Sequence[FieldError]], Awaitable[None]]


class Dispatcher:
    """Delivers the messages of one route to one target. An error of one message does not affect others."""

    def __init__(self, route: Route, target: Target, *, bus: Bus, clock: Clock, reject: Reject | None = None) -> None:
        self._route = route
        self._target = target
        self._bus = bus
        self._clock = clock
        self._reject = reject
        self._slot_queue = SlotQueue(clock)
        self._requeue = RequeueBackoff(clock)
        self._order = KeyedOrder(route.ordering_key, clock)
        #: Failures of each message in this process, by stream sequence.
        self._failed: dict[int, int] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        """Return whether the target refuses further events; unsettled messages stay in the stream until a restart."""
        return self._closed

    async def dispatch(self, delivery: Delivery) -> bool:
        """Deliver one message and settle it; return False if it failed. One that waits for others has not failed.

        Raises:
            Retry: NATS does not answer; the message is redelivered after the ack wait.
        """
        message = delivery.message
        project = subjects.project_of(message.subject)
        if message.deliveries > 1 and not self._requeue.take_requeued(message.sequence, project):
            metrics.redeliveries.labels(self._route.consumer).inc()
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
            # An invalid event stays invalid: a redelivery would fail again and only delay others.
            await self._dead_letter(message, None, DeliveryResult(400, str(error)), errors_of(error))
            await delivery.ack()
            return False
        with structlog.contextvars.bound_contextvars(**logs.about(message.subject, event)):
            return await self._hand_over(delivery, event)

    async def _crashed(self, delivery: Delivery, error: Exception) -> None:
        """Handle an error of the dispatcher itself: request redelivery a few times, then write a dead letter."""
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
        name = f"dispatch {self._route.consumer}"
        try:
            with tracing.span(name, event, {"messaging.consumer.group.name": self._route.consumer}) as current:
                async with self._order.hold(event) as key:
                    result = await self._in_order(key, delivery.message, event)
                tracing.set_response(current, result.status, waits=result.too_early)
        finally:
            heartbeat.cancel()
        await self._settle(delivery, event, result)
        return result.done or result.too_early

    async def _in_order(self, key: str | None, message: Message, event: Event) -> DeliveryResult:
        """Return the function's response, or 425 if an earlier message of the same key is still to be redelivered."""
        sequence = message.sequence
        if self._order.would_overtake(key, sequence):
            self._order.will_be_redelivered(key, sequence, MAX_DELAY + self._route.ack_wait)
            return DeliveryResult(425, "an earlier message of the same key failed and comes first")
        result = await self._post(event)
        if result.retried and (self._route.strict_order or self._route.requeues):
            self._failed[sequence] = self._failed.get(sequence, 0) + 1
        if self._route.strict_order and result.retried and not self._exhausted(message):
            # Redelivery follows after the pause, or after the ack wait if this dispatcher dies first.
            pause = result.pause(self._failures(message))
            self._order.will_be_redelivered(key, sequence, pause + self._route.ack_wait)
        else:
            self._order.settled(key, sequence)
        return result

    def _failures(self, message: Message) -> int:
        """Return the failures so far.

        On routes that requeue deliveries with 425 only failures seen by this process count. A restarted dispatcher
        therefore allows more retries, never fewer.
        """
        requeues = self._route.strict_order or self._route.requeues
        return self._failed.get(message.sequence, 0) if requeues else message.deliveries

    def _exhausted(self, message: Message) -> bool:
        """Return whether the message has used all its deliveries."""
        return 0 < self._route.max_deliveries <= self._failures(message)

    async def _post(self, event: Event) -> DeliveryResult:
        """Post the event, and repeat while the function is busy; return the last response."""
        result = await self._target.post(event)
        offers, project = 0, subjects.project_of(event.extensions.get(NATS_SUBJECT, ""))
        while result.busy:
            offers = await self._slot_queue.wait(result.retry_after, project)
            result = await self._target.post(event)
            if result.busy:
                self._slot_queue.wake_next(offers)
        if offers or not result.too_early:
            # The delivery has ended, or could not use the slot that it was offered.
            self._slot_queue.wake_next()
        return result

    def _event(self, message: Message) -> Event:
        scheduler = message.headers.get(_SCHEDULER)
        if scheduler is not None and not scheduler.startswith(("ocf.schedule.", "ocf.cron.")):
            # The server does not check whether the publisher of a schedule may publish to its target; it only adds a
            # header with the schedule's subject.
            raise InvalidEvent(
                f"sent by the schedule {quoted(scheduler)}; only those below ocf.schedule. and ocf.cron. are valid"
            )
        event = decode(message.headers, message.data)
        if self._route.types and event.type not in self._route.types:
            raise InvalidEvent(f"type: {quoted(event.type)} does not belong on {message.subject[:200]}")
        # Overwrites values set by the publisher, which are not trusted.
        marks = {NATS_SUBJECT: subjects.base_subject(message.subject), NATS_SEQUENCE: str(message.sequence)}
        if scheduler is not None or NATS_SCHEDULER in event.extensions:
            marks[NATS_SCHEDULER] = scheduler or ""
        return event.with_extensions(**marks, **{NATS_DELIVERIES: str(message.deliveries)})

    async def _heartbeat(self, delivery: Delivery) -> None:
        """Restart the ack wait periodically, so that a long execution is not redelivered."""
        while True:
            await self._clock.sleep(self._route.ack_wait / 3)
            await delivery.in_progress()

    async def _settle(self, delivery: Delivery, event: Event, result: DeliveryResult) -> None:
        message = delivery.message
        metrics.deliveries.labels(self._route.consumer, result.kind).inc()
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
                "delivery failed, will be retried",
                action="dispatch.retry",
                consumer=self._route.consumer,
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
        """Remove the failures of a message, and the oldest beyond a bound: another dispatcher may have settled them."""
        self._failed.pop(message.sequence, None)
        while len(self._failed) > _REMEMBERED:
            del self._failed[next(iter(self._failed))]

    async def _close(self, delivery: Delivery, result: DeliveryResult) -> None:
        """Stop sending after 410 Gone (Standard Webhooks 1.0.0); the messages stay in the stream."""
        self._closed = True
        metrics.sinks_closed.labels(self._route.consumer).set(1)
        log.warning(
            "the sink responded with 410 Gone; nothing is sent to it until the next start",
            action="dispatch.sink_gone",
            consumer=self._route.consumer,
            reason=result.loggable_reason[:200],
        )
        await delivery.nak(result.pause(1))

    async def _dead_letter(
        self, message: Message, event: Event | None, result: DeliveryResult, errors: Sequence[FieldError]
    ) -> None:
        """Publish the rejection and write the dead letter, without data if there is no `event`.

        The caller acknowledges the message afterwards.
        """
        await self._publish_rejection(message, event, bounded(list(errors)))
        subject, data, headers = dead_letters.compose(
            self._route.consumer,
            message,
            status=result.status,
            reason=result.reason,
            at=self._clock.now(),
            with_data=event is not None,
        )
        await self._bus.publish(subject, data, headers)
        metrics.dead_letters.labels(self._route.consumer).inc()
        log.warning(
            "dead letter",
            action="dispatch.dead_letter",
            consumer=self._route.consumer,
            subject=message.subject[:300],
            status=result.status,
            reason=result.loggable_reason[:500],
        )

    async def _publish_rejection(self, message: Message, event: Event | None, errors: Sequence[FieldError]) -> None:
        if self._reject is None or _SCHEDULER in message.headers:
            return  # the publisher of the schedule may have no permission for the execution
        try:
            await self._reject(message, event, errors)
        except Retry:
            raise
        except Exception as error:
            # Do not raise: the dead letter must still be written.
            log.exception("rejection not published", action="dispatch.reject_failed", reason=type(error).__name__)
