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
#: JSApiError of nats-server: what `Nats-Expected-Last-Subject-Sequence` says is not so.
WRONG_LAST_SEQUENCE = 10071


class _Sent(NamedTuple):
    data: bytes
    headers: dict[str, str]


class Writers:
    """All writers of a connection, and the one subject that their acknowledgements come in by.

    Not nats-py's `publish_async`: it makes a future, a random token and a semaphore's turn for each message, which was
    a third of what a chunk of output cost. Here a message is known by its writer's name and its number.
    """

    def __init__(self, nc: NatsClient) -> None:
        self._nc = nc
        self._inbox = ""
        self._opened = 0
        self._writers: dict[str, NatsWriter] = {}

    def open(
        self, subject: str, may_repeat: Callable[[], bool] | None, on_fenced: Callable[[], None] | None
    ) -> NatsWriter:
        """A writer to `subject`; see `ocf.events.ports.Bus.writer`."""
        self._opened += 1
        name = str(self._opened)
        self._writers[name] = NatsWriter(self, name, subject, may_repeat or _always, on_fenced or _nobody)
        return self._writers[name]

    def repair(self) -> None:
        """The connection is back."""
        for writer in list(self._writers.values()):
            writer.repair()

    def close(self) -> None:
        """Close all of them."""
        for writer in list(self._writers.values()):
            writer.close()

    @property
    def connected(self) -> bool:
        """Whether what is posted now goes to a server."""
        return self._nc.is_connected

    async def post(self, name: str, number: int, subject: str, sent: _Sent) -> None:
        """Publish it; the answer goes to `NatsWriter.answered` of that name."""
        if not self._inbox:
            self._inbox = self._nc.new_inbox()
            await self._nc.subscribe(f"{self._inbox}.*.*", cb=self._take)
        await self._nc.publish(subject, sent.data, reply=f"{self._inbox}.{name}.{number}", headers=sent.headers)

    def forget(self, name: str) -> None:
        """What is answered to it is for nobody."""
        self._writers.pop(name, None)

    async def _take(self, answer: Msg) -> None:
        name, number = answer.subject[len(self._inbox) + 1 :].split(".")
        if writer := self._writers.get(name):
            writer.answered(int(number), answer.data)


def _always() -> bool:
    return True


def _nobody() -> None:
    """Nobody wants to know."""


class NatsWriter:
    """See `ocf.events.ports.Writer`.

    What is not acknowledged stays in a window, by number. After a reconnect, a refusal or a silence the window is sent
    again, in order; `Nats-Msg-Id` makes the server keep each message once. Whoever was away for long may not own the
    subject any more, hence `may_repeat`.
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
        while len(self._window) >= _WINDOW:
            await self._wait_for_move()
        self._last += 1
        headers.update(self._fence)
        number, sent = self._last, _Sent(data, headers)
        self._window[number] = sent
        if self._repairing is not None:
            return
        if not self._writers.connected:
            self.repair()
            return
        try:
            await self._writers.post(self._name, number, self._subject, sent)
        except (nats.errors.Error, OSError):
            self.repair()

    def fence(self, fence: Fence) -> None:
        self._fence = fence.headers()
        for sent in self._window.values():
            sent.headers.update(self._fence)

    async def flush(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                while self._window:
                    await self._wait_for_move()
        except TimeoutError:
            raise Unavailable(f"{len(self._window)} messages to {self._subject} are not kept yet") from None

    def close(self) -> None:
        if self._repairing is not None:
            self._repairing.cancel()
        self._window.clear()
        self._writers.forget(self._name)

    def answered(self, number: int, answer: bytes) -> None:
        """The server's answer to a message; no answer at all (b"") says that no stream takes the subject."""
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
        """Send the window again, in the background; what is sent meanwhile waits behind it."""
        if self._repairing is None and self._window:
            self._repairing = asyncio.create_task(self._repair())

    async def _wait_for_move(self) -> None:
        self._moved.clear()
        try:
            async with asyncio.timeout(_ACK_TIMEOUT):
                await self._moved.wait()
        except TimeoutError:
            # No acknowledgement for that long: it, or the message, was lost.
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
        """Send everything not kept, in order; whether all of it was acknowledged."""
        self._refused, posted = False, 0
        try:
            async with asyncio.timeout(_ACK_TIMEOUT):
                while self._window and not self._refused:
                    self._moved.clear()
                    for number in [number for number in self._window if number > posted]:
                        if sent := self._window.get(number):  # else its answer came meanwhile
                            await self._writers.post(self._name, number, self._subject, sent)
                        posted = number
                    if self._window and not self._refused:
                        await self._moved.wait()
        except (nats.errors.Error, OSError, TimeoutError):
            return False
        return not self._window
