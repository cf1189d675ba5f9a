"""A worker's end of the socket to its parent (`parent.py`): it receives connections and sends heartbeats.

Every message is one byte. From the parent: `DELIVERY` and `QUERY`, each with the descriptor of a connection, and
`BOOT` or `BOOT_IDLE`, the permission to boot a server, the latter in idle time only. To the parent: `STARTING`, `COLD`
or `WARM` every two seconds from the event loop, so that their absence shows a hang; `DONE` at the end of a delivery's
connection and work; `WANTS_BOOT` for a run, `WANTS_SPARE` for the next one, and `BOOTED`.
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

DELIVERY, QUERY, BOOT, BOOT_IDLE = b"c", b"q", b"b", b"i"
STARTING, COLD, WARM, DONE, WANTS_BOOT, WANTS_SPARE, BOOTED = b"s", b"h", b"w", b"d", b"a", b"p", b"e"
_BEAT = 2.0
#: Seconds until a connection without work is aborted.
_IDLE_SECONDS = 30.0

Serve = Callable[[socket.socket, Callable[[], None]], Awaitable[asyncio.Transport]]


class Work(Protocol):
    """The work of a worker process."""

    @property
    def warm(self) -> bool:
        """Return whether a delivery would find a warm server."""
        ...

    @property
    def busy(self) -> bool:
        """Return whether an execution runs."""
        ...

    async def idle(self) -> None:
        """Wait until no execution runs."""
        ...


class Link:
    """A worker's end of the socket; one per worker."""

    def __init__(self, its: socket.socket, tally: Tally) -> None:
        its.setblocking(False)
        self.tally = tally
        self._socket = its
        self._serve: asyncio.Future[Serve] | None = None
        self._boot: asyncio.Future[bool] | None = None
        self._demanded = False
        self._booting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        #: The work of this process, after `register_work`.
        self.work: Work | None = None
        self._beating: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start reporting to the parent, and accept connections, which wait for `serve`."""
        global _current
        _current = self
        loop = asyncio.get_running_loop()
        self._serve = loop.create_future()
        loop.add_reader(self._socket, self._readable)
        self._beating = asyncio.create_task(self._beat())

    def serve(self, serve: Serve) -> None:
        """Report readiness. `serve` handles a connection, and calls its callback when the connection has ended."""
        assert self._serve is not None
        self._serve.set_result(serve)
        self._send_state()

    @asynccontextmanager
    async def boot_turn(self, spare: bool) -> AsyncIterator[bool]:
        """Wait until this worker may boot a server; the parent limits concurrent boots over all workers.

        Args:
            spare: no run waits for it.

        Yields:
            Whether the boot is to take idle time only.
        """
        async with self._booting:
            self._boot, self._demanded = asyncio.get_running_loop().create_future(), False
            self._send(WANTS_SPARE if spare else WANTS_BOOT)
            try:
                yield await self._boot
            finally:
                self._boot = None
                self._send(BOOTED)

    def demand_boot(self) -> None:
        """Tell the parent that a run waits for the boot that was requested as a spare one."""
        if self._boot is not None:
            self._demanded = True
            self._send(WANTS_BOOT)

    def _readable(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            # The parent is gone. Not all kernels then end the child (PR_SET_PDEATHSIG), and no other process would.
            os.kill(os.getpid(), signal.SIGKILL)
        elif message in (BOOT, BOOT_IDLE):
            if self._boot is not None and not self._boot.done():
                self._boot.set_result(message == BOOT_IDLE and not self._demanded)
        elif descriptors:
            connection = socket.socket(fileno=descriptors[0])
            task = asyncio.create_task(self._take(connection, delivery=message == DELIVERY))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _take(self, connection: socket.socket, *, delivery: bool) -> None:
        assert self._serve is not None
        serve = await self._serve
        assert self.work is not None  # registered before `serve`
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
                await self.work.idle()  # the execution may outlast the connection
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
        with suppress(OSError):  # `_readable` detects a dead parent; a stopped one may continue later
            self._socket.send(what)


_current: Link | None = None


def boot_turn(spare: bool) -> AbstractAsyncContextManager[bool]:
    """Wait until this process may boot a server; without a parent, return at once. See `Link.boot_turn`."""
    return nullcontext(False) if _current is None else _current.boot_turn(spare)


def demand_boot() -> None:
    """Let a run wait no longer than necessary for the boot that this process has requested as a spare one."""
    if _current is not None:
        _current.demand_boot()


def register_work(work: Work) -> None:
    """Set the work that this process reports to its parent, if it has one."""
    if _current is not None:
        _current.work = work
