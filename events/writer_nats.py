"""Ordered, pipelined publishing to one subject over JetStream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import nats.errors
import structlog
from nats.aio.client import Client as NatsClient
from nats.js.api import PubAck
from nats.js.client import JetStreamContext
from nats.js.errors import Error as JetStreamError

from events.errors import Unavailable

log = structlog.get_logger()

_WINDOW = 1024
_ACK_TIMEOUT = 5.0


@dataclass(eq=False)
class _Sent:
    data: bytes
    headers: dict[str, str]
    ack: asyncio.Future[PubAck] | None = None
    kept: bool = False


class NatsWriter:
    """See `events.ports.Writer`.

    What is not acknowledged stays in a window. nats-py never ends the future of a publish whose
    connection broke, so after a reconnect (or a refusal) the window is sent again, in order;
    `Nats-Msg-Id` makes the server keep each message once. Whoever was away for long may not own the
    subject any more, hence `may_repeat`.
    """

    def __init__(
        self,
        nc: NatsClient,
        js: JetStreamContext,
        subject: str,
        on_close: Callable[[NatsWriter], None],
        may_repeat: Callable[[], bool],
    ) -> None:
        self._may_repeat = may_repeat
        self._nc = nc
        self._js = js
        self._subject = subject
        self._on_close = on_close
        self._window: deque[_Sent] = deque()
        self._moved = asyncio.Event()
        self._repairing: asyncio.Task[None] | None = None

    async def send(self, data: bytes, headers: Mapping[str, str]) -> None:
        while len(self._window) >= _WINDOW:
            await self._wait_for_move(_ACK_TIMEOUT)
        sent = _Sent(data, dict(headers))
        self._window.append(sent)
        if self._repairing is not None:
            return
        if not self._nc.is_connected:
            self.repair()
            return
        try:
            await self._post(sent)
        except (nats.errors.Error, JetStreamError, OSError):
            self.repair()

    async def flush(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                while self._window:
                    await self._wait_for_move(_ACK_TIMEOUT)
        except TimeoutError:
            raise Unavailable(f"{len(self._window)} messages to {self._subject} are not kept yet") from None

    def close(self) -> None:
        if self._repairing is not None:
            self._repairing.cancel()
        for sent in self._window:
            if sent.ack is not None:
                sent.ack.cancel()
        self._window.clear()
        self._on_close(self)

    def repair(self) -> None:
        """Send the window again, in the background; what is sent meanwhile waits behind it."""
        if self._repairing is None and self._window:
            self._repairing = asyncio.create_task(self._repair())

    async def _wait_for_move(self, timeout: float) -> None:
        self._moved.clear()
        try:
            async with asyncio.timeout(timeout):
                await self._moved.wait()
        except TimeoutError:
            # No acknowledgement for that long: it, or the message, was lost.
            self.repair()

    async def _post(self, sent: _Sent) -> None:
        if sent.ack is not None:
            sent.ack.cancel()
        ack = await self._js.publish_async(self._subject, sent.data, headers=sent.headers)
        sent.ack = ack
        ack.add_done_callback(lambda ack: self._on_ack(sent, ack))

    def _on_ack(self, sent: _Sent, ack: asyncio.Future[PubAck]) -> None:
        if ack.cancelled():
            return
        if ack.exception() is not None:
            log.warning("publish refused", action="bus.publish_refused", error=str(ack.exception()))
            self.repair()
            return
        sent.kept = True
        while self._window and self._window[0].kept:
            self._window.popleft()
        self._moved.set()

    async def _repair(self) -> None:
        delay = 0.05
        try:
            while self._window:
                if self._nc.is_connected and self._may_repeat() and await self._resend():
                    return
                await asyncio.sleep(delay)
                delay = min(delay * 2, 1.0)
        finally:
            self._repairing = None
            self._moved.set()

    async def _resend(self) -> bool:
        """Send everything not kept, in order; whether all of it was acknowledged."""
        done = 0
        try:
            async with asyncio.timeout(_ACK_TIMEOUT):
                while done < len(self._window) or self._window:
                    batch = [sent for sent in self._window if not sent.kept]
                    if not batch:
                        return True
                    for sent in batch:
                        await self._post(sent)
                    await asyncio.gather(*(sent.ack for sent in batch if sent.ack is not None))
                    done += len(batch)
        except (nats.errors.Error, JetStreamError, OSError, TimeoutError):
            return False
        return True
