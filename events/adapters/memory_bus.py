"""In-memory bus and bucket, for unit tests and for `ocf replay --to`, which must not touch real streams.

The contract tests of the JetStream adapter also cover this one (`tests/contract/`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

from ocf.events import streams
from ocf.events.errors import Conflict, TooLarge, Unavailable
from ocf.events.ports import (
    Backlog,
    Clock,
    ConsumerSpec,
    ConsumerState,
    Delivery,
    Entry,
    Fence,
    Inbox,
    Message,
    message_size,
)
from ocf.events.untrusted_json import MESSAGE_BYTES

#: Seconds between two checks for deliveries that have become due.
_DUE_CHECK_SECONDS = 0.02


def subject_matches(pattern: str, subject: str) -> bool:
    """Return whether a NATS pattern matches `subject`: `*` is one token, `>` is the rest (at least one)."""
    wanted, tokens = pattern.split("."), subject.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(tokens) > index
        if index >= len(tokens) or (part != "*" and part != tokens[index]):
            return False
    return len(wanted) == len(tokens)


@dataclass
class _Stream:
    spec: streams.StreamSpec
    messages: list[Message] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)
    sequence: int = 0


@dataclass
class _Consumer:
    spec: ConsumerSpec
    after: int = 0
    acked: set[int] = field(default_factory=set)
    not_before: dict[int, float] = field(default_factory=dict)
    deliveries: dict[int, int] = field(default_factory=dict)


class MemoryDelivery:
    """A pulled message."""

    def __init__(self, message: Message, consumer: _Consumer, bus: MemoryBus, ack_wait: float) -> None:
        self._message = message
        self._consumer = consumer
        self._bus = bus
        self._ack_wait = ack_wait

    @property
    def message(self) -> Message:
        """Return the pulled message."""
        return self._message

    async def ack(self) -> None:
        """Acknowledge the message."""
        self._consumer.acked.add(self._message.sequence)

    async def ack_soon(self) -> None:
        """Acknowledge the message."""
        await self.ack()

    async def nak(self, delay: float) -> None:
        """Request redelivery after `delay` seconds."""
        self._consumer.not_before[self._message.sequence] = self._bus.clock.monotonic() + delay
        self._bus.changed()

    async def in_progress(self) -> None:
        """Restart the ack wait."""
        await self.nak(self._ack_wait)


class MemoryWriter:
    """See `ocf.events.ports.Writer`. Stores each message at once, or holds it until the next fence."""

    def __init__(self, bus: MemoryBus, subject: str, on_fenced: Callable[[], None] | None) -> None:
        self._bus = bus
        self._subject = subject
        self._on_fenced = on_fenced
        self._fence: Fence | None = None
        self._waiting: list[tuple[bytes, dict[str, str]]] = []

    def fence(self, fence: Fence) -> None:
        """Implement `Writer.fence`."""
        self._fence = fence

    async def send(self, data: bytes, headers: dict[str, str]) -> None:
        """Implement `Writer.send`."""
        self._waiting.append((data, headers))
        await self._send()

    async def _send(self) -> None:
        while self._waiting:
            data, headers = self._waiting[0]
            if self._fence is not None:
                headers.update(self._fence.headers())
            try:
                await self._bus.publish(self._subject, data, headers)
            except Conflict:
                if self._on_fenced is not None:
                    self._on_fenced()
                return
            self._waiting.pop(0)

    async def flush(self, timeout: float) -> None:
        """Implement `Writer.flush`."""
        await self._send()
        if self._waiting:
            raise Unavailable(f"{len(self._waiting)} messages to {self._subject} are not stored yet")

    def close(self) -> None:
        """Implement `Writer.close`."""
        self._waiting.clear()


class MemoryBus:
    """See `ocf.events.ports.Bus`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._streams = {spec.name: _Stream(spec) for spec in streams.STREAMS}
        self._consumers: dict[str, _Consumer] = {}
        self._listeners: list[tuple[tuple[str, ...], Inbox]] = []
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Wake every pending `fetch`."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str], *, only_first: bool = False) -> int:
        """Implement `Bus.publish`."""
        _check_size(subject, data, headers)
        stream = next(s for s in self._streams.values() if any(subject_matches(p, subject) for p in s.spec.subjects))
        message_id = headers.get("Nats-Msg-Id")
        if message_id is not None and message_id in stream.ids:
            return stream.ids[message_id]
        if only_first and any(m.subject == subject for m in stream.messages):
            raise Conflict(f"{subject} already has a message")
        if (fenced := headers.get("Nats-Expected-Last-Subject-Sequence-Subject")) is not None:
            newest = max((m.sequence for m in stream.messages if m.subject == fenced), default=0)
            if str(newest) != headers["Nats-Expected-Last-Subject-Sequence"]:
                raise Conflict(f"{fenced} is at {newest}")
        stream.sequence += 1
        message = Message(subject, data, dict(headers), stream.sequence, self.clock.now())
        if "Nats-Schedule" in headers:  # replaces an earlier schedule (ADR-51: an implied rollup)
            stream.messages = [m for m in stream.messages if m.subject != subject]
        stream.messages.append(message)
        if message_id is not None:
            stream.ids[message_id] = stream.sequence
        await self._push(message)
        if stream.spec.republish is not None:
            source, target = (part.removesuffix(">") for part in stream.spec.republish)
            await self._push(
                replace(
                    message,
                    subject=target + subject.removeprefix(source),
                    headers={**headers, "Nats-Sequence": str(stream.sequence)},
                )
            )
        self.changed()
        return stream.sequence

    def writer(
        self,
        subject: str,
        *,
        may_repeat: Callable[[], bool] | None = None,
        on_fenced: Callable[[], None] | None = None,
    ) -> MemoryWriter:
        """Implement `Bus.writer`."""
        return MemoryWriter(self, subject, on_fenced)

    async def publish_live(self, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Implement `Bus.publish_live`."""
        await self._push(Message(subject, data, dict(headers)))

    async def _push(self, message: Message) -> None:
        for subjects, inbox in self._listeners:
            if any(subject_matches(pattern, message.subject) for pattern in subjects):
                inbox.put(message)

    async def history(self, stream: str, subject: str, *, after: int = 0) -> AsyncIterator[Message]:
        """Implement `Bus.history`."""
        for message in list(self._streams[stream].messages):
            if message.sequence > after and subject_matches(subject, message.subject):
                yield message

    async def first(self, stream: str, subject: str, *, after: int = 0) -> Message | None:
        """Implement `Bus.first`."""
        return await anext(self.history(stream, subject, after=after), None)

    async def last(self, stream: str, subject: str) -> Message | None:
        """Implement `Bus.last`."""
        found = [m for m in self._streams[stream].messages if subject_matches(subject, m.subject)]
        return found[-1] if found else None

    @asynccontextmanager
    async def listen(self, *subjects: str) -> AsyncIterator[AsyncIterator[Message]]:
        """Implement `Bus.listen`."""
        inbox = Inbox()
        self._listeners.append((subjects, inbox))
        try:
            yield inbox
        finally:
            self._listeners = [entry for entry in self._listeners if entry[1] is not inbox]

    async def fetch(self, consumer: ConsumerSpec, limit: int, wait: float) -> list[Delivery]:
        """Implement `Bus.fetch`."""
        state = self._consumer(consumer)
        try:
            # Real time even with a manual clock: `fetch` must return when no message arrives.
            async with asyncio.timeout(wait):
                while not (found := self._due(consumer, state)[:limit]):
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), _DUE_CHECK_SECONDS)
        except TimeoutError:
            return []
        given = [self._deliver(message, consumer, state) for message in found]
        behind = self._backlog(state).waiting
        return [MemoryDelivery(replace(m, behind=behind), state, self, consumer.ack_wait) for m in given]

    def _consumer(self, spec: ConsumerSpec) -> _Consumer:
        if spec.name not in self._consumers:
            after = self._streams[spec.stream].sequence if spec.from_now else max(0, spec.start - 1)
            self._consumers[spec.name] = _Consumer(spec, after)
        return self._consumers[spec.name]

    def _due(self, consumer: ConsumerSpec, state: _Consumer) -> list[Message]:
        now = self.clock.monotonic()
        return [
            m
            for m in self._streams[consumer.stream].messages
            if m.sequence > state.after
            and m.sequence not in state.acked
            and state.not_before.get(m.sequence, 0.0) <= now
            and any(subject_matches(p, m.subject) for p in consumer.subjects)
        ]

    def _deliver(self, message: Message, consumer: ConsumerSpec, state: _Consumer) -> Message:
        number = state.deliveries[message.sequence] = state.deliveries.get(message.sequence, 0) + 1
        state.not_before[message.sequence] = self.clock.monotonic() + consumer.ack_wait
        data = b"" if consumer.headers_only else message.data
        return replace(message, data=data, deliveries=number)

    async def backlog(self, consumer: ConsumerSpec) -> Backlog:
        """Implement `Bus.backlog`."""
        return self._backlog(self._consumer(consumer))

    def _backlog(self, state: _Consumer) -> Backlog:
        waiting = sum(m.sequence not in state.deliveries for m in self._due(state.spec, state))
        stored = (m.sequence for m in self._streams[state.spec.stream].messages)
        return Backlog(waiting, sum(n in state.deliveries and n not in state.acked for n in stored))

    async def consumers(self, stream: str) -> list[ConsumerState]:
        """Implement `Bus.consumers`."""
        found = [state for state in self._consumers.values() if state.spec.stream == stream]
        return [
            ConsumerState(state.spec.name, state.spec.start, self._backlog(state), self._acknowledged(state))
            for state in found
        ]

    def _acknowledged(self, state: _Consumer) -> int:
        stream = self._streams[state.spec.stream]
        open_ = (
            m.sequence
            for m in stream.messages
            if m.sequence > state.after
            and m.sequence not in state.acked
            and any(subject_matches(p, m.subject) for p in state.spec.subjects)
        )
        return min(open_, default=stream.sequence + 1) - 1

    async def open_consumer(self, consumer: ConsumerSpec) -> int:
        """Implement `Bus.open_consumer`."""
        return self._consumer(consumer).spec.start

    async def remove_consumer(self, consumer: ConsumerSpec) -> None:
        """Implement `Bus.remove_consumer`."""
        self._consumers.pop(consumer.name, None)

    async def purge(self, stream: str, subject: str) -> int:
        """Implement `Bus.purge`."""
        found = self._streams[stream]
        before = len(found.messages)
        found.messages = [m for m in found.messages if not subject_matches(subject, m.subject)]
        return before - len(found.messages)

    async def remove(self, stream: str, sequence: int) -> bool:
        """Implement `Bus.remove`."""
        found = self._streams[stream]
        before = len(found.messages)
        found.messages = [m for m in found.messages if m.sequence != sequence]
        return len(found.messages) < before

    async def ready(self) -> None:
        """Return at once: memory is always available."""


def _check_size(name: str, data: bytes, headers: Mapping[str, str]) -> None:
    size = message_size(data, headers)
    if size > MESSAGE_BYTES:
        raise TooLarge(f"{name}: {size} bytes with headers; at most {MESSAGE_BYTES}")


@dataclass
class _Value:
    data: bytes
    revision: int
    expires: float | None


class MemoryBucket:
    """See `ocf.events.ports.Bucket`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._values: dict[str, _Value] = {}
        self._revision = 0

    def _live(self, key: str) -> _Value | None:
        value = self._values.get(key)
        if value is not None and value.expires is not None and value.expires <= self._clock.monotonic():
            del self._values[key]
            return None
        return value

    async def get(self, key: str) -> Entry | None:
        """Implement `Bucket.get`."""
        value = self._live(key)
        return None if value is None else Entry(key, value.data, value.revision)

    async def create(self, key: str, value: bytes, *, ttl: int | None = None) -> int:
        """Implement `Bucket.create`."""
        return await self.update(key, value, 0, ttl=ttl)

    async def update(self, key: str, value: bytes, revision: int, *, ttl: int | None = None) -> int:
        """Implement `Bucket.update`."""
        _check_size(key, value, {})
        newest = self._live(key)
        if (newest.revision if newest else 0) != revision:
            raise Conflict(f"{key} was changed concurrently")
        self._revision += 1
        expires = None if ttl is None else self._clock.monotonic() + ttl
        self._values[key] = _Value(value, self._revision, expires)
        return self._revision

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Implement `Bucket.delete`."""
        value = self._live(key)
        if revision is not None and (value.revision if value else 0) != revision:
            raise Conflict(f"{key} was changed concurrently")
        self._values.pop(key, None)

    async def newest(self, filter: str) -> Entry | None:
        """Implement `Bucket.newest`."""
        found = [entry async for entry in self.entries(filter)]
        return found[-1] if found else None

    async def get_all(self, keys: Sequence[str]) -> list[Entry]:
        """Implement `Bucket.get_all`."""
        return [entry for key in keys if (entry := await self.get(key)) is not None]

    async def entries(self, filter: str = ">", *, after: int = 0) -> AsyncIterator[Entry]:
        """Implement `Bucket.entries`."""
        for key in sorted(self._values, key=lambda key: self._values[key].revision):
            value = self._live(key)
            if value is not None and value.revision > after and subject_matches(filter, key):
                yield Entry(key, value.data, value.revision)
