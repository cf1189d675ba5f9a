"""Protocols of the external services: bus, buckets, object store, clock. `ocf.events.adapters` implements them.

Only `adapters.nats` imports nats-py, only `adapters.s3` imports boto3.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Message:
    """A stored message. `sequence` is the stream's (0 for core NATS), `time` the server's.

    `behind` is the number of undelivered messages of the consumer at the time of delivery.
    """

    subject: str
    data: bytes
    headers: Mapping[str, str]
    sequence: int = 0
    time: datetime | None = None
    deliveries: int = 1
    behind: int = 0


def message_size(data: bytes, headers: Mapping[str, str]) -> int:
    """Return the bytes of a message on the wire, as nats-server counts them against `max_payload`."""
    lines = sum(len(name.encode()) + len(value.encode()) + 4 for name, value in headers.items())
    return len(data) + (lines + 12 if headers else 0)


@dataclass(frozen=True)
class Entry:
    """A value of a bucket with its revision for compare-and-set."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True)
class ConsumerSpec:
    """A durable pull consumer. Times are in seconds.

    Args:
        name: Durable name.
        stream: Stream of the consumer.
        subjects: Subject filters.
        ack_wait: Time until an unacknowledged message is redelivered.
        max_in_flight: Maximum of unacknowledged messages; 0 means no limit.
        from_now: Deliver only messages published after the creation of the consumer.
        start: First stream sequence to deliver; 0 means all.
        headers_only: Deliver messages without data.
    """

    name: str
    stream: str
    subjects: tuple[str, ...]
    ack_wait: float = 30.0
    max_in_flight: int = 100
    from_now: bool = False
    start: int = 0
    headers_only: bool = False


@dataclass(frozen=True)
class Backlog:
    """Open messages of a durable consumer.

    `waiting` messages were never delivered; `unsettled` ones were delivered, and are in progress or due again later.
    """

    waiting: int
    unsettled: int


@dataclass(frozen=True)
class ConsumerState:
    """An existing durable consumer. `start` as in `ConsumerSpec`.

    While messages are open, all those up to the stream sequence `acknowledged` are acknowledged.
    """

    name: str
    start: int
    backlog: Backlog
    acknowledged: int


class Inbox:
    """Queue of live messages. Unlike a generator, `__anext__` may be cancelled (by a timeout) and repeated."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Message] = asyncio.Queue()

    def put(self, message: Message) -> None:
        """Add a message."""
        self._queue.put_nowait(message)

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> Message:
        return await self._queue.get()


class Delivery(Protocol):
    """A pulled message, which must be acknowledged or negatively acknowledged once."""

    @property
    def message(self) -> Message:
        """The pulled message."""
        ...

    async def ack(self) -> None:
        """Acknowledge, and wait for the confirmation of the bus."""
        ...

    async def ack_soon(self) -> None:
        """Acknowledge without waiting; a lost acknowledgement causes a redelivery."""
        ...

    async def nak(self, delay: float) -> None:
        """Request redelivery after `delay` seconds."""
        ...

    async def in_progress(self) -> None:
        """Restart the ack wait while the message is being handled."""
        ...


@dataclass(frozen=True)
class Fence:
    """A fencing token: the message `sequence` is the latest of `subject` until the next fence is set (ADR 0009)."""

    subject: str
    sequence: int

    def headers(self) -> dict[str, str]:
        """Return the headers by which the stream refuses a message after a later fence (nats-server 2.11)."""
        return {
            "Nats-Expected-Last-Subject-Sequence": str(self.sequence),
            "Nats-Expected-Last-Subject-Sequence-Subject": self.subject,
        }


class Writer(Protocol):
    """Pipelined, ordered publishing to one subject; survives reconnects."""

    def fence(self, fence: Fence) -> None:
        """Make the stream store messages only while `fence` is the latest, including messages not yet acknowledged."""
        ...

    async def send(self, data: bytes, headers: dict[str, str]) -> None:
        """Queue one message. The headers must have a `Nats-Msg-Id`, so that a resend is harmless.

        The writer owns `headers` from now on; the caller must not change them.
        """
        ...

    async def flush(self, timeout: float) -> None:
        """Wait until all messages are stored. Raises Unavailable after `timeout` seconds."""
        ...

    def close(self) -> None:
        """Discard messages that are not stored yet."""
        ...


class Bus(Protocol):
    """Streams and live subjects."""

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str], *, only_first: bool = False) -> int:
        """Store a message; return its stream sequence.

        With `only_first` the subject must not have a message yet.

        Raises:
            Conflict: `only_first` is set and the subject has a message, or a later fence was set.
            TooLarge: The message with its headers is larger than the bus accepts; a retry cannot succeed.
            Unavailable: The message was not acknowledged in time.
        """
        ...

    def writer(
        self,
        subject: str,
        *,
        may_repeat: Callable[[], bool] | None = None,
        on_fenced: Callable[[], None] | None = None,
    ) -> Writer:
        """Return an ordered, pipelined writer to one subject.

        Args:
            subject: The subject of all messages.
            may_repeat: Return False to postpone the resend of messages that a broken connection may have lost.
            on_fenced: Called when the stream refuses a message because a later fence was set.
        """
        ...

    async def publish_live(self, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Publish by core NATS to the current subscribers only."""
        ...

    def history(self, stream: str, subject: str, *, after: int = 0) -> AsyncIterator[Message]:
        """Yield all stored messages of `subject` with a stream sequence above `after`, then stop."""
        ...

    async def first(self, stream: str, subject: str, *, after: int = 0) -> Message | None:
        """Return the first message of `history`, for a binary search in the stream."""
        ...

    async def last(self, stream: str, subject: str) -> Message | None:
        """Return the latest stored message that matches `subject`."""
        ...

    def listen(self, *subjects: str) -> AbstractAsyncContextManager[AsyncIterator[Message]]:
        """Subscribe to live messages of `subjects` (core NATS) while the context is open."""
        ...

    async def fetch(self, consumer: ConsumerSpec, limit: int, wait: float) -> list[Delivery]:
        """Pull up to `limit` messages of a durable consumer; return [] if none arrives within `wait` seconds.

        Creates the consumer if it does not exist.

        Raises:
            Unavailable: The bus does not answer; call again later.
        """
        ...

    async def backlog(self, consumer: ConsumerSpec) -> Backlog:
        """Return the open messages of a durable consumer.

        Raises:
            Unavailable: The bus does not answer.
        """
        ...

    async def consumers(self, stream: str) -> list[ConsumerState]:
        """Return all durable consumers of a stream.

        Raises:
            Unavailable: The bus does not answer.
        """
        ...

    async def open_consumer(self, consumer: ConsumerSpec) -> int:
        """Create a consumer; return its `start`, or that of the existing consumer with the same name.

        Raises:
            Unavailable: The server refuses (its limit of consumers is reached), or does not answer.
        """
        ...

    async def remove_consumer(self, consumer: ConsumerSpec) -> None:
        """Remove a consumer and its state, if it exists."""
        ...

    async def purge(self, stream: str, subject: str) -> int:
        """Remove all messages that match `subject`; return their number."""
        ...

    async def remove(self, stream: str, sequence: int) -> bool:
        """Remove one message; return whether it existed."""
        ...

    async def ready(self) -> None:
        """Raise Unavailable unless the bus answers."""
        ...


class Bucket(Protocol):
    """A key-value bucket with compare-and-set. `ttl` is in whole seconds. Writes raise TooLarge for a large value."""

    async def get(self, key: str) -> Entry | None:
        """Return the value of `key`, or None."""
        ...

    async def create(self, key: str, value: bytes, *, ttl: int | None = None) -> int:
        """Store the first value of `key`; return its revision. Raises Conflict if the key has a value."""
        ...

    async def update(self, key: str, value: bytes, revision: int, *, ttl: int | None = None) -> int:
        """Replace the value of `key`; return the new revision. Raises Conflict if `revision` is not the latest."""
        ...

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Remove the key and its history. Raises Conflict if `revision` is given and not the latest."""
        ...

    async def newest(self, filter: str) -> Entry | None:
        """Return the entry of the latest change among the keys that match; None also if that was a deletion.

        Unlike `entries` it does not ask a replica that may lag.
        """
        ...

    async def get_all(self, keys: Sequence[str]) -> list[Entry]:
        """Return the values of those of `keys` that have one; a lagging replica may answer."""
        ...

    def entries(self, filter: str = ">", *, after: int = 0) -> AsyncIterator[Entry]:
        """Yield the entries that match a NATS filter (`project.*`) and changed after revision `after`, oldest first."""
        ...


@dataclass(frozen=True)
class ObjectInfo:
    """A stored object: size in bytes, `sha256` in hex if known, the time of its last write if listed."""

    key: str
    size: int
    sha256: str | None = None
    modified: datetime | None = None


class ObjectStore(Protocol):
    """S3-compatible storage. Keys are `<project>/<execution>/<name>`."""

    async def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> ObjectInfo:
        """Store an object."""
        ...

    async def put_file(self, key: str, path: Path, *, content_type: str = "application/octet-stream") -> ObjectInfo:
        """Upload a file in parts, with constant memory."""
        ...

    async def get(self, key: str) -> bytes:
        """Return an object's bytes. Raises NotYetKnown if it does not exist."""
        ...

    def stream(self, key: str, *, chunk: int = 1024 * 1024) -> AsyncIterator[bytes]:
        """Yield an object in pieces, with constant memory. Raises NotYetKnown if it does not exist."""
        ...

    async def head(self, key: str) -> ObjectInfo | None:
        """Return size and digest of an object, or None."""
        ...

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield the objects below `prefix` in key order; `sha256` may be missing."""
        ...

    async def delete_prefix(self, prefix: str) -> int:
        """Remove all objects below `prefix`; return their number."""
        ...

    async def ready(self) -> None:
        """Raise Unavailable unless the bucket answers."""
        ...


class Clock(Protocol):
    """Time. Tests replace it, so that they need not wait."""

    def now(self) -> datetime:
        """Return the wall-clock time in UTC."""
        ...

    def monotonic(self) -> float:
        """Return the seconds of a monotonic clock."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        ...
