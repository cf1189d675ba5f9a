"""Client of the fork server (ocf/stack/fork_server.py): child processes with the interface of asyncio's."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from ocf.functions.workers.sealed_environment import memory_file, without_secrets

_LOST = -9


class Running(Protocol):
    """The interface of a child process; `asyncio.subprocess.Process` has it."""

    @property
    def pid(self) -> int:
        """Return its process id."""

    @property
    def returncode(self) -> int | None:
        """Return its exit status; None while it runs."""

    async def wait(self) -> int:
        """Wait for its end; return its exit status."""


class Forked:
    """A child of the fork server."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._pid

    @property
    def returncode(self) -> int | None:
        """Return its exit status, negative for a signal; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Wait for its end; return its exit status."""
        return await asyncio.shield(self._ended)

    def end(self, status: int) -> None:
        """Record its exit status."""
        if not self._ended.done():
            self._ended.set_result(status)


class ForkServer:
    """One per stack. Started when first needed, and again after its death; its children die with it.

    `prepare` runs in it between fork and exec.
    """

    def __init__(self, env: Mapping[str, str], log: Path, prepare: Callable[[], None] | None) -> None:
        self._env = dict(env)
        self._log = log
        self._prepare = prepare
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None
        self._reading: asyncio.Task[None] | None = None
        self._pending: deque[asyncio.Future[Forked]] = deque()
        self._children: dict[int, Forked] = {}
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Start importing, so that a later `fork` is fast."""
        async with self._starting:
            if self._process is not None:
                return
            ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            with self._log.open("ab") as log, its:
                self._process = await asyncio.create_subprocess_exec(
                    # The log's path in `ps` shows which stack this fork server belongs to.
                    *(sys.executable, "-m", "ocf.stack.fork_server", str(self._log)),
                    env=self._env,
                    stdin=its.fileno(),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=self._prepare,
                )
            self._socket = ours
            self._reading = asyncio.create_task(self._read(self._process, ours))

    async def fork(
        self, name: str, module: str, env: Mapping[str, str], *, cwd: Path, log: Path, parent: bool = False
    ) -> Forked:
        """Fork a child that runs `python -m module` in that environment, in a session of its own.

        A `parent` of workers passes the environment to them, and has only the part without secrets itself.

        Raises:
            ChildProcessError: the fork server died meanwhile.
        """
        await self.start()
        assert self._socket is not None
        own = without_secrets(env) if parent else None
        request = {"name": name, "module": module, "cwd": str(cwd), "log": str(log), "without_secrets": own}
        with suppress(ConnectionError), _in_memory(json.dumps(dict(env)).encode()) as environment:
            # When it has died, the reader reports it.
            socket.send_fds(self._socket, [json.dumps(request).encode()], [environment])
        # Only what was sent is answered: another error (no descriptor is free) must leave no one waiting in its place.
        answer: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
        self._pending.append(answer)
        return await answer

    async def _read(self, process: asyncio.subprocess.Process, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while message := await self._message(loop, ours):
            message = json.loads(message)
            if "started" in message:
                child = self._children[message["started"]] = Forked(message["started"])
                pending = self._pending.popleft()
                if not pending.done():
                    pending.set_result(child)
            elif (ended := self._children.pop(message["ended"], None)) is not None:
                ended.end(message["status"])
        ours.close()
        await process.wait()
        self._process = self._socket = None
        for child in self._children.values():
            child.end(_LOST)
        self._children.clear()
        while self._pending:
            pending = self._pending.popleft()
            if not pending.done():
                pending.set_exception(ChildProcessError(f"the fork server ended with {process.returncode}"))

    @staticmethod
    async def _message(loop: asyncio.AbstractEventLoop, ours: socket.socket) -> bytes:
        """Return the next message; b"" once it has died."""
        try:
            return await loop.sock_recv(ours, 4096)
        except ConnectionError:
            return b""

    async def close(self) -> None:
        """Stop it; all its children must have ended."""
        if self._socket is not None and self._reading is not None:
            self._socket.shutdown(socket.SHUT_WR)
            await self._reading


@contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    """Yield a descriptor of a file in memory."""
    descriptor = memory_file(content)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def available() -> bool:
    """Return whether functions can be forked here: elsewhere system libraries do not survive a fork."""
    return sys.platform == "linux" and hasattr(os, "fork")
