"""Ordered, pipelined publishing to one subject over JetStream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import nats.errors
import structlog
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from ocf.events.errors import Unavailable
from ocf.events.ports import Fence

log = structlog.get_logger()

_WINDOW = 1024
_ACK_TIMEOUT = 5.0
#: Error code of nats-server: `Nats-Expected-Last-Subject-Sequence` does not match.
WRONG_LAST_SEQUENCE = 10071


class _Sent(NamedTuple):
    data: bytes
    headers: dict[str, str]


class Writers:
    """All writers of a connection, and the one inbox for their acknowledgements.

    Replaces nats-py's `publish_async`, whose future, random token and semaphore per message were a third of the cost
    of an output chunk. The reply subject identifies a message by its writer's name and its number.
    """

    def __init__(self, nc: NatsClient) -> None:
        self._nc = nc
        self._inbox = ""
        self._opened = 0
        self._writers: dict[str, NatsWriter] = {}

    def open(
        self, subject: str, may_repeat: Callable[[], bool] | None, on_fenced: Callable[[], None] | None
    ) -> NatsWriter:
        """Return a new writer to `subject`; see `ocf.events.ports.Bus.writer`."""
        self._opened += 1
        name = str(self._opened)
        self._writers[name] = NatsWriter(self, name, subject, may_repeat or _always, on_fenced or _ignore)
        return self._writers[name]

    def repair(self) -> None:
        """Resend the unacknowledged messages of all writers after a reconnect."""
        for writer in list(self._writers.values()):
            writer.repair()

    def close(self) -> None:
        """Close all writers."""
        for writer in list(self._writers.values()):
            writer.close()

    @property
    def connected(self) -> bool:
        """Return whether the connection is up."""
        return self._nc.is_connected

    async def post(self, name: str, number: int, subject: str, sent: _Sent) -> None:
        """Publish one message of writer `name`; `NatsWriter.on_ack` receives the acknowledgement."""
        if not self._inbox:
            self._inbox = self._nc.new_inbox()
            await self._nc.subscribe(f"{self._inbox}.*.*", cb=self._take)
        await self._nc.publish(subject, sent.data, reply=f"{self._inbox}.{name}.{number}", headers=sent.headers)

    def forget(self, name: str) -> None:
        """Drop later acknowledgements for this writer."""
        self._writers.pop(name, None)

    async def _take(self, answer: Msg) -> None:
        name, number = answer.subject[len(self._inbox) + 1 :].split(".")
        if writer := self._writers.get(name):
            writer.on_ack(int(number), answer.data)


def _always() -> bool:
    return True


def _ignore() -> None:
    """Do nothing."""


class NatsWriter:
    """See `ocf.events.ports.Writer`.

    Unacknowledged messages stay in a window, keyed by number. After a reconnect, a refusal or a timeout the writer
    resends the window in order; `Nats-Msg-Id` makes the server store each message once. A writer that was disconnected
    for long may have lost its subject, therefore it asks `may_repeat` first.
    """

    def __init__(
        self,
        writers: Writers,
        name: str,
        subject: str,
        may_repeat: Callable[[], bool],
        on_fenced: Callable[[], None],
    ) -> None:
        self._writers = writers
        self._name = name
        self._subject = subject
        self._may_repeat = may_repeat
        self._on_fenced = on_fenced
        self._fence: dict[str, str] = {}
        self._last = 0
        self._window: dict[int, _Sent] = {}
        self._moved = asyncio.Event()
        self._refused = False
        self._repairing: asyncio.Task[None] | None = None

    async def send(self, data: bytes, headers: dict[str, str]) -> None:
        """Implement `Writer.send`."""
        # The message is in the window before anything is awaited: a caller that is cancelled has numbered it already.
        self._last += 1
        headers.update(self._fence)
        number, sent = self._last, _Sent(data, headers)
        self._window[number] = sent
        if not self._writers.connected:
            self.repair()
        elif self._repairing is None:
            try:
                await self._writers.post(self._name, number, self._subject, sent)
            except (nats.errors.Error, OSError):
                self.repair()
        while len(self._window) > _WINDOW:
            await self._wait_for_move()

    def fence(self, fence: Fence) -> None:
        """Implement `Writer.fence`."""
        self._fence = fence.headers()
        for sent in self._window.values():
            sent.headers.update(self._fence)

    async def flush(self, timeout: float) -> None:
        """Implement `Writer.flush`."""
        try:
            async with asyncio.timeout(timeout):
                while self._window:
                    await self._wait_for_move()
        except TimeoutError:
            raise Unavailable(f"{len(self._window)} messages to {self._subject} are not stored yet") from None

    def close(self) -> None:
        """Implement `Writer.close`."""
        if self._repairing is not None:
            self._repairing.cancel()
        self._window.clear()
        self._writers.forget(self._name)

    def on_ack(self, number: int, answer: bytes) -> None:
        """Handle the server's answer to a message; an empty answer means that no stream takes the subject."""
        if answer and b'"error"' not in answer:
            self._window.pop(number, None)
        elif number in self._window:
            log.warning("publish refused", action="bus.publish_refused", error=answer.decode() or "no stream")
            self._refused = True
            if f'"err_code":{WRONG_LAST_SEQUENCE}'.encode() in answer:
                self._on_fenced()
            self.repair()
        self._moved.set()

    def repair(self) -> None:
        """Resend the window in the background; later messages queue behind it."""
        if self._repairing is None and self._window:
            self._repairing = asyncio.create_task(self._repair())

    async def _wait_for_move(self) -> None:
        self._moved.clear()
        try:
            async with asyncio.timeout(_ACK_TIMEOUT):
                await self._moved.wait()
        except TimeoutError:
            # No acknowledgement within the timeout: the message or its acknowledgement was lost.
            self.repair()

    async def _repair(self) -> None:
        delay = 0.05
        try:
            while self._window:
                if self._writers.connected and self._may_repeat() and await self._resend():
                    return
                await asyncio.sleep(delay)
                delay = min(delay * 2, 1.0)
        finally:
            self._repairing = None
            self._moved.set()

    async def _resend(self) -> bool:
        """Resend the window in order; return whether all of it was acknowledged."""
        self._refused, posted = False, 0
        try:
            async with asyncio.timeout(_ACK_TIMEOUT):
                while self._window and not self._refused:
                    self._moved.clear()
                    for number in [number for number in self._window if number > posted]:
                        if sent := self._window.get(number):  # else it was acknowledged meanwhile
                            await self._writers.post(self._name, number, self._subject, sent)
                        posted = number
                    if self._window and not self._refused:
                        await self._moved.wait()
        except (nats.errors.Error, OSError, TimeoutError):
            return False
        return not self._window
