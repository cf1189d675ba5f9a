"""Protocols for what the functions need from outside. `ocf.events.adapters` implements them.

Only `adapters.nats.bus` imports nats-py, only `adapters.s3` boto3.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Message:
    """A message as the bus keeps it. `sequence` is the stream's (0 for core NATS), `time` the server's.

    `behind`: how many more its consumer had for nobody yet when it was delivered.
    """

    subject: str
    data: bytes
    headers: Mapping[str, str]
    sequence: int = 0
    time: datetime | None = None
    deliveries: int = 1
    behind: int = 0


def message_size(data: bytes, headers: Mapping[str, str]) -> int:
    """Bytes of a message on the wire, as nats-server counts them against its `max_payload`."""
    lines = sum(len(name.encode()) + len(value.encode()) + 4 for name, value in headers.items())
    return len(data) + (lines + 12 if headers else 0)


@dataclass(frozen=True)
class Entry:
    """A value of a bucket with its revision, for compare-and-set."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True)
class ConsumerSpec:
    """A durable pull consumer. Times in seconds.

    `from_now`: it gets what is published after it was created. `start`: the first stream sequence it gets (0: all).
    `headers_only`: messages come without their data. `max_in_flight` 0: no limit.
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
    """What a durable consumer has yet to see settled, in messages.

    `waiting` were given to nobody yet; `unsettled` were, and wait for their end or their next try.
    """

    waiting: int
    unsettled: int


@dataclass(frozen=True)
class ConsumerState:
    """A durable consumer that exists. `start` as in `ConsumerSpec`."""

    name: str
    start: int
    backlog: Backlog


class Inbox:
    """Messages as they come. Not a generator: waiting for the next one may be cancelled (a timeout) and repeated."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Message] = asyncio.Queue()

    def put(self, message: Message) -> None:
        """Add one."""
        self._queue.put_nowait(message)

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> Message:
        return await self._queue.get()


class Delivery(Protocol):
    """A message that was pulled and must be answered once."""

    @property
    def message(self) -> Message: ...

    async def ack(self) -> None:
        """Done; returns when the bus knows."""
        ...

    async def ack_soon(self) -> None:
        """Done; does not wait. Where the bus does not hear of it the message is delivered again."""
        ...

    async def nak(self, delay: float) -> None: ...

    async def in_progress(self) -> None: ...


@dataclass(frozen=True)
class Fence:
    """A mark in a stream: the message of `sequence` is the newest of `subject`, until the next is set (ADR 0009)."""

    subject: str
    sequence: int

    def headers(self) -> dict[str, str]:
        """What makes the stream refuse a message once a later mark was set (nats-server 2.11)."""
        return {
            "Nats-Expected-Last-Subject-Sequence": str(self.sequence),
            "Nats-Expected-Last-Subject-Sequence-Subject": self.subject,
        }


class Writer(Protocol):
    """Writes many messages to one subject, in order, without waiting for each; survives reconnects."""

    def fence(self, fence: Fence) -> None:
        """From now on a message is kept only while `fence` is the newest; so is what was not kept so far."""
        ...

    async def send(self, data: bytes, headers: dict[str, str]) -> None:
        """Queue one message. Headers must have a `Nats-Msg-Id`: it is what makes sending twice harmless.

        They are kept as they are, for a second try: give them away.
        """
        ...

    async def flush(self, timeout: float) -> None:
        """Wait until all of it is kept. Raises Unavailable after `timeout` seconds."""
        ...

    def close(self) -> None:
        """Forget what is not kept yet."""
        ...


class Bus(Protocol):
    """Streams and live subjects."""

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str], *, only_first: bool = False) -> int:
        """Store a message; return its stream sequence once it is kept.

        `only_first` refuses when the subject already has a message.

        Raises:
            Conflict: `only_first`, and there is one.
            TooLarge: with its headers it is larger than the bus takes, now and ever.
            Unavailable: not acknowledged in time.
        """
        ...

    def writer(
        self,
        subject: str,
        *,
        may_repeat: Callable[[], bool] | None = None,
        on_fenced: Callable[[], None] | None = None,
    ) -> Writer:
        """An ordered, pipelined writer to one subject.

        What a broken connection may have swallowed is sent again; as long as `may_repeat` says no, that waits.
        `on_fenced` is called when the stream refuses a message because a later fence was set.
        """
        ...

    async def publish_live(self, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Core NATS: whoever listens now gets it."""
        ...

    def history(self, stream: str, subject: str, *, after: int = 0) -> AsyncIterator[Message]:
        """Every kept message of `subject` with a stream sequence above `after`, then end."""
        ...

    async def first(self, stream: str, subject: str, *, after: int = 0) -> Message | None:
        """The first message of `history`, alone: for who looks for a place in it."""
        ...

    async def last(self, stream: str, subject: str) -> Message | None:
        """The newest message kept for exactly `subject`."""
        ...

    def listen(self, *subjects: str) -> AbstractAsyncContextManager[AsyncIterator[Message]]:
        """Live messages of `subjects` (core NATS), from the moment the context is entered."""
        ...

    async def fetch(self, consumer: ConsumerSpec, limit: int, wait: float) -> list[Delivery]:
        """Up to `limit` messages of a durable consumer; [] when none comes within `wait` seconds.

        Creates the consumer where it is missing.

        Raises:
            Unavailable: no connection now; call again later.
        """
        ...

    async def backlog(self, consumer: ConsumerSpec) -> Backlog:
        """What a durable consumer has yet to see settled.

        Raises:
            Unavailable: not known now.
        """
        ...

    async def consumers(self, stream: str) -> list[ConsumerState]:
        """Every durable consumer of a stream.

        Raises:
            Unavailable: not known now.
        """
        ...

    async def open_consumer(self, consumer: ConsumerSpec) -> int:
        """Create a consumer; return its `start`: that of the existing one, where there is one of that name.

        Raises:
            Unavailable: the server refuses (it has as many as it may), or does not answer.
        """
        ...

    async def remove_consumer(self, consumer: ConsumerSpec) -> None:
        """Remove a consumer and all it knows; nothing happens where it does not exist."""
        ...

    async def purge(self, stream: str, subject: str) -> int:
        """Remove what `subject` matches; return how many messages."""
        ...

    async def remove(self, stream: str, sequence: int) -> bool:
        """Remove one message; whether it was there."""
        ...

    async def ready(self) -> None:
        """Raise Unavailable unless the bus answers."""
        ...


class Bucket(Protocol):
    """A key-value bucket with compare-and-set. `ttl` is in whole seconds. A value may be too large: TooLarge."""

    async def get(self, key: str) -> Entry | None: ...

    async def create(self, key: str, value: bytes, *, ttl: int | None = None) -> int:
        """Raises Conflict when the key has a value."""
        ...

    async def update(self, key: str, value: bytes, revision: int, *, ttl: int | None = None) -> int:
        """Raises Conflict when the revision is not the newest."""
        ...

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Remove the key and its history."""
        ...

    def entries(self, filter: str = ">", *, after: int = 0) -> AsyncIterator[Entry]:
        """Every entry whose key matches the NATS filter (`project.*`), changed since revision `after`, oldest first."""
        ...


@dataclass(frozen=True)
class ObjectInfo:
    """A stored object; size in bytes; `sha256` in hex when it was put with one."""

    key: str
    size: int
    sha256: str | None = None


class ObjectStore(Protocol):
    """S3 as this system uses it. Keys are `<project>/<execution>/<name>`."""

    async def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> ObjectInfo: ...

    async def put_file(self, key: str, path: Path, *, content_type: str = "application/octet-stream") -> ObjectInfo:
        """Upload in parts, memory flat."""
        ...

    async def get(self, key: str) -> bytes:
        """Raises NotYetKnown when there is no such object."""
        ...

    def stream(self, key: str, *, chunk: int = 1024 * 1024) -> AsyncIterator[bytes]:
        """The object in pieces, memory flat. Raises NotYetKnown when there is none."""
        ...

    async def head(self, key: str) -> ObjectInfo | None: ...

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]: ...

    async def delete_prefix(self, prefix: str) -> int:
        """Remove every object below `prefix`; return how many."""
        ...

    async def ready(self) -> None:
        """Raise Unavailable unless the bucket answers."""
        ...


class Clock(Protocol):
    """Time, so that tests need not wait for it."""

    def now(self) -> datetime:
        """Wall-clock time, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that only go forward."""
        ...

    async def sleep(self, seconds: float) -> None: ...
