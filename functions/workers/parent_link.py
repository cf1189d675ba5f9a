"""A worker's end of the socket to its parent (`parent.py`): connections come in, signs of life go out.

Every message is one byte. From the parent: `DELIVERY` and `QUERY`, each with the descriptor of a connection, and
`BOOT`, the turn to boot a server. To the parent: `STARTING`, `COLD` or `WARM` every two seconds, from the event loop,
so that silence says that it hangs; `DONE` when a delivery's connection has ended and its work has, too; `WANTS_BOOT`
and `BOOTED`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from typing import Protocol

from ocf.functions.workers.metrics_sum import Tally

DELIVERY, QUERY, BOOT = b"c", b"q", b"b"
STARTING, COLD, WARM, DONE, WANTS_BOOT, BOOTED = b"s", b"h", b"w", b"d", b"a", b"e"
_BEAT = 2.0
#: Who has connected and begins no work within that many seconds is not waited for.
_IDLE_SECONDS = 30.0

Serve = Callable[[socket.socket, Callable[[], None]], Awaitable[asyncio.Transport]]


class Work(Protocol):
    """What a worker is at. `warm`: a delivery would find a warm server; `idle` waits for the end of what runs."""

    @property
    def warm(self) -> bool: ...

    @property
    def busy(self) -> bool: ...

    async def idle(self) -> None: ...


class Link:
    """One per worker."""

    def __init__(self, its: socket.socket, tally: Tally) -> None:
        its.setblocking(False)
        self.tally = tally
        self._socket = its
        self._serve: asyncio.Future[Serve] | None = None
        self._boot: asyncio.Future[None] | None = None
        self._booting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        #: What this process is at, once that is ready.
        self.work: Work | None = None
        self._beating: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Say that the event loop runs, and take connections, which wait for `serve`."""
        global _current
        _current = self
        loop = asyncio.get_running_loop()
        self._serve = loop.create_future()
        loop.add_reader(self._socket, self._readable)
        self._beating = asyncio.create_task(self._beat())

    def serve(self, serve: Serve) -> None:
        """Everything is ready; `serve` answers on a connection, and calls back when that has ended."""
        assert self._serve is not None
        self._serve.set_result(serve)
        self._send_state()

    @asynccontextmanager
    async def boot_turn(self) -> AsyncIterator[None]:
        """Wait for it; over all workers of the parent so many boot at once as there are processors, in order."""
        async with self._booting:
            self._boot = asyncio.get_running_loop().create_future()
            self._send(WANTS_BOOT)
            try:
                await self._boot
                yield
            finally:
                self._boot = None
                self._send(BOOTED)

    def _readable(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            # Where the kernel does not see to it: who has no parent has nobody who would end it.
            os.kill(os.getpid(), signal.SIGKILL)
        elif message == BOOT:
            if self._boot is not None and not self._boot.done():
                self._boot.set_result(None)
        elif descriptors:
            connection = socket.socket(fileno=descriptors[0])
            task = asyncio.create_task(self._take(connection, delivery=message == DELIVERY))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _take(self, connection: socket.socket, *, delivery: bool) -> None:
        assert self._serve is not None
        serve = await self._serve
        assert self.work is not None  # message before
        closed = asyncio.Event()
        connection.setblocking(False)
        try:
            transport = await serve(connection, closed.set)
            with suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_SECONDS):
                    await closed.wait()
            if not (closed.is_set() or (delivery and self.work.busy)):
                transport.abort()
            await closed.wait()
            if delivery:
                await self.work.idle()  # its run may outlast the connection
        finally:
            self.tally.save()
            if delivery:
                self._send_state()
                self._send(DONE)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT)
            self._send_state()
            self.tally.save()

    def _send_state(self) -> None:
        ready = self.work if self._serve is not None and self._serve.done() else None
        self._send(STARTING if ready is None else WARM if ready.warm else COLD)

    def _send(self, what: bytes) -> None:
        with suppress(OSError):  # a parent that does not listen is found out by `_readable`, or was stopped for a while
            self._socket.send(what)


_current: Link | None = None


def boot_turn() -> AbstractAsyncContextManager[None]:
    """This process's turn to boot a server: its parent says when; without one there is nobody to wait for."""
    return nullcontext() if _current is None else _current.boot_turn()


def register_work(work: Work) -> None:
    """Say what this process is at, to its parent if it has one."""
    if _current is not None:
        _current.work = work
