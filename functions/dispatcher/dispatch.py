"""One delivery: POST the event, hold its ack while the function works, turn the answer into an ack."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

import httpx
import structlog

from events import subjects, trace
from events.envelope import Event, decode, timestamp
from events.errors import InvalidEvent
from events.ports import Bus, Clock, Delivery, Message
from functions import metrics, tracing
from functions.common.commands import NATS_SUBJECT
from functions.dispatcher.lanes import Lanes
from functions.dispatcher.line import Line
from functions.dispatcher.wiring import Row, backoff

log = structlog.get_logger()

_REASON = 2_000
_SCHEDULER = "Nats-Scheduler"
_RETRIED = frozenset({404, 408, 409, 425})


@dataclass(frozen=True)
class Answer:
    """What the function said. `status` 0: nothing, it did not answer."""

    status: int
    reason: str = ""
    retry_after: float = 1.0

    @property
    def done(self) -> bool:
        """It is handled."""
        return 200 <= self.status < 300

    @property
    def kind(self) -> str:
        """For counting."""
        return f"{self.status // 100}xx" if self.status else "none"

    @property
    def busy(self) -> bool:
        """All its slots are taken: wait, which is not a failure."""
        return self.status == 429

    @property
    def retried(self) -> bool:
        """It may go better later."""
        return self.status == 0 or self.status >= 500 or self.status in _RETRIED


class Dispatcher:
    """Feeds one row of the wiring to one URL."""

    def __init__(
        self, row: Row, url: str, token: str | None, *, bus: Bus, clock: Clock, http: httpx.AsyncClient
    ) -> None:
        self._row = row
        self._url = url
        self._token = token
        self._bus = bus
        self._clock = clock
        self._http = http
        self._line = Line(clock)
        self._lanes = Lanes(row.in_order_of)

    async def dispatch(self, delivery: Delivery) -> None:
        """See one delivery through: afterwards it is acked, naked or a dead letter."""
        message = delivery.message
        if message.deliveries > 1:
            metrics.redeliveries.labels(self._row.consumer).inc()
        try:
            event = self._event(message)
        except InvalidEvent as error:
            await self._dead_letter(message, Answer(400, str(error)))
            await delivery.ack()
            return
        heartbeat = asyncio.create_task(self._heartbeat(delivery))
        name = f"dispatch {self._row.consumer}"
        try:
            with tracing.span(name, event, {"messaging.consumer.group.name": self._row.consumer}):
                async with self._lanes.place(event):
                    answer = await self._answer(event.with_extensions(**trace.active()))
        finally:
            heartbeat.cancel()
        await self._settle(delivery, answer)

    async def _answer(self, event: Event) -> Answer:
        """What the function says in the end; while it is busy, it is asked again."""
        answer = await self._post(event)
        while answer.busy:
            offers = await self._line.wait(answer.retry_after)
            answer = await self._post(event)
            if answer.busy:
                self._line.offer(offers)
        self._line.offer()
        return answer

    def _event(self, message: Message) -> Event:
        scheduler = message.headers.get(_SCHEDULER)
        if scheduler is not None and not scheduler.startswith("ocf.schedule."):
            # The server does not ask whether a schedule's publisher may publish to its target; it stamps who it was.
            raise InvalidEvent(f"sent by the schedule {scheduler[:120]!r}; only those below ocf.schedule. count")
        event = decode(message.headers, message.data)
        if event.type not in self._row.types:
            raise InvalidEvent(f"type: {event.type[:120]!r} does not belong on {message.subject}")
        # A publisher's own value of these is worth nothing: they are overwritten.
        marks = {NATS_SUBJECT: message.subject, "natssequence": str(message.sequence)}
        return event.with_extensions(**marks, natsdeliveries=str(message.deliveries))

    async def _post(self, event: Event) -> Answer:
        headers = event.headers()
        if self._token:
            headers["ocf-dispatch-token"] = self._token
        try:
            response = await self._http.post(
                self._url, content=event.data, headers=headers, timeout=httpx.Timeout(self._row.timeout, connect=10.0)
            )
        except httpx.HTTPError as error:
            return Answer(0, f"{self._row.function} did not answer: {error or type(error).__name__}")
        return Answer(response.status_code, response.text[:_REASON], _retry_after(response.headers))

    async def _heartbeat(self, delivery: Delivery) -> None:
        """Hold the ack: without it a run longer than the ack wait would be delivered again."""
        while True:
            await self._clock.sleep(self._row.ack_wait / 3)
            await delivery.in_progress()

    async def _settle(self, delivery: Delivery, answer: Answer) -> None:
        message = delivery.message
        metrics.deliveries.labels(self._row.consumer, answer.kind).inc()
        if answer.done:
            await delivery.ack()
            return
        spent = 0 < self._row.max_deliveries <= message.deliveries
        if answer.retried and not spent:
            delay = backoff(message.deliveries)
            log.info(
                "delivery failed, will be repeated",
                action="dispatch.retry",
                consumer=self._row.consumer,
                subject=message.subject,
                status=answer.status,
                reason=answer.reason[:200],
                deliveries=message.deliveries,
                delay=delay,
            )
            await delivery.nak(delay)
            return
        await self._dead_letter(message, answer)
        await delivery.ack()

    async def _dead_letter(self, message: Message, answer: Answer) -> None:
        """Keep the message as it came in `OCF_DLQ`, with why. Only then is it acked."""
        kept = {k: v for k, v in message.headers.items() if not k.lower().startswith("nats-")}
        marks = {
            "Ocf-Dlq-Consumer": self._row.consumer,
            "Ocf-Dlq-Subject": message.subject,
            "Ocf-Dlq-Sequence": str(message.sequence),
            "Ocf-Dlq-Deliveries": str(message.deliveries),
            "Ocf-Dlq-Status": str(answer.status),
            "Ocf-Dlq-Reason": quote(answer.reason[:_REASON], safe=" ,.:;/'()[]{}=_-"),
            "Ocf-Dlq-Time": timestamp(self._clock.now()),
        }
        identity = {"Nats-Msg-Id": f"dlq:{self._row.consumer}:{message.sequence}"}
        subject = subjects.dead_letter(self._row.consumer)
        await self._bus.publish(subject, message.data, {**kept, **marks, **identity})
        metrics.dead_letters.labels(self._row.consumer).inc()
        log.warning(
            "dead letter",
            action="dispatch.dead_letter",
            consumer=self._row.consumer,
            subject=message.subject,
            status=answer.status,
            reason=answer.reason[:500],
        )


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        return min(30.0, max(0.1, float(headers.get("retry-after", "1"))))
    except ValueError:
        return 1.0
