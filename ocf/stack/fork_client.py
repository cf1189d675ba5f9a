"""The parent's side of the nursery (ocf/stack/fork_server.py): processes that look like those of asyncio."""

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

from ocf.functions.workers.environment import memory_file, without_secrets

_LOST = -9


class Running(Protocol):
    """What the stack needs of a child process; `asyncio.subprocess.Process` is one."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    async def wait(self) -> int: ...


class Forked:
    """A child of the nursery."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Its exit status, once it has ended."""
        return await asyncio.shield(self._ended)

    def end(self, status: int) -> None:
        """It has ended."""
        if not self._ended.done():
            self._ended.set_result(status)


class ForkServer:
    """One per stack. It is started when first needed, and again when it died; its children die with it.

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
        """Begin to import, so that a later `fork` finds it ready."""
        async with self._starting:
            if self._process is not None:
                return
            ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            with self._log.open("ab") as log, its:
                self._process = await asyncio.create_subprocess_exec(
                    # The log's place is for whoever looks at `ps`: it says whose nursery this is.
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
        """A child that runs `python -m module` in that environment, in a session of its own. A `parent` of workers
        keeps the environment for them, and has the without_secrets part of it itself.

        Raises:
            ChildProcessError: the nursery died meanwhile.
        """
        await self.start()
        assert self._socket is not None
        answer: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
        self._pending.append(answer)
        own = without_secrets(env) if parent else None
        request = {"name": name, "module": module, "cwd": str(cwd), "log": str(log), "without_secrets": own}
        with suppress(ConnectionError), _in_memory(json.dumps(dict(env)).encode()) as environment:
            # When it has died, the reader says so.
            socket.send_fds(self._socket, [json.dumps(request).encode()], [environment])
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
                pending.set_exception(ChildProcessError(f"the nursery ended with {process.returncode}"))

    @staticmethod
    async def _message(loop: asyncio.AbstractEventLoop, ours: socket.socket) -> bytes:
        """The next message; empty once it has died."""
        try:
            return await loop.sock_recv(ours, 4096)
        except ConnectionError:
            return b""

    async def close(self) -> None:
        """End it; all its children must have ended."""
        if self._socket is not None and self._reading is not None:
            self._socket.shutdown(socket.SHUT_WR)
            await self._reading


@contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    """A descriptor of a file that lies on no disk."""
    descriptor = memory_file(content)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def available() -> bool:
    """Whether functions can be forked here: elsewhere system libraries do not survive a fork."""
    return sys.platform == "linux" and hasattr(os, "fork")
