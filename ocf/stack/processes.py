"""Child processes of the stack: started, waited for, restarted when they die, ended with all descendants."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ocf.stack.fork_client import ForkServer, Running

_PR_SET_PDEATHSIG = 1
# Loaded before any fork: a child must not take the loader's lock.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_POLL = 0.02
_RESTART_FIRST, _RESTART_MOST, _STABLE = 0.2, 10.0, 30.0
_TAIL_BYTES = 2000


class StackFailed(Exception):
    """A process of the stack did not become ready."""


@dataclass(frozen=True)
class Spec:
    """One process: a row of the stack's table. Times in seconds.

    Attributes:
        port: the port it listens on.
        path: answers 200 once it is ready (None: listening is enough, with `greeting` in the first bytes).
        once: it is ready when it has ended with 0.
        module: the module of ours that `argv` runs, which the fork server may fork instead.
        parent: it may be a parent of workers.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    stage: int
    port: int = 0
    path: str | None = None
    greeting: bytes = b""
    once: bool = False
    grace: float = 5.0
    ready_seconds: float = 30.0
    module: str | None = None
    parent: bool = False


@dataclass
class Child:
    """A running `Spec`."""

    spec: Spec
    say: Callable[[str], None]
    fork_server: ForkServer | None = None
    restarts: int = 0
    _process: Running | None = None
    _watching: asyncio.Task[None] | None = None
    _stopping: bool = field(default=False)

    @property
    def pid(self) -> int | None:
        """Return its process id; None when it does not run."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start it and wait until it is ready; from then on it is restarted when it dies.

        Raises:
            StackFailed: it ended or was not ready in time; with the last lines of its log.
        """
        await self._spawn()
        await self._ready()
        if not self.spec.once:
            self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Send SIGTERM, wait `grace` seconds, SIGKILL the whole process group; return when it is gone."""
        self._stopping = True
        if self._watching is not None:
            self._watching.cancel()
            # Whatever it ended with: the process is to be ended, and those of lower stages after it.
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._end()

    async def _spawn(self) -> None:
        spec = self.spec
        if self.fork_server is not None and spec.module is not None:
            name = f"ocf-{spec.name}"
            place = {"cwd": spec.cwd, "log": spec.log}
            self._process = await self.fork_server.fork(name, spec.module, spec.env, **place, parent=spec.parent)
            return
        with spec.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *spec.argv,
                env=dict(spec.env),
                cwd=spec.cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=exit_with_parent(os.getpid()),
            )

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return  # its pid may belong to another process by now
        _signal_group(process.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self.spec.grace)
        except TimeoutError:
            self._tell(f"{self.spec.name} did not end within {self.spec.grace:.0f} s and was killed")
        # Descendants may have outlived it.
        _signal_group(process.pid, signal.SIGKILL)
        await process.wait()

    async def _watch(self) -> None:
        wait = _RESTART_FIRST
        swept: Running | None = None
        clock = asyncio.get_running_loop().time
        while True:
            assert self._process is not None
            since = clock()
            status = await self._process.wait()
            if self._process is not swept:  # after a failed start its pid may belong to another process
                _signal_group(self._process.pid, signal.SIGKILL)
                swept = self._process
            wait = _RESTART_FIRST if clock() - since > _STABLE else min(wait * 2, _RESTART_MOST)
            self._tell(
                f"{self.spec.name} ended with {status}; starting it again in {wait:.1f} s (log: {self.spec.log})"
            )
            await asyncio.sleep(wait)
            self.restarts += 1
            try:
                await self._spawn()
                await self._ready()
                self._tell(f"{self.spec.name} is back")
            except (StackFailed, OSError) as error:  # OSError: no process or file could be had just now
                self._tell(str(error))
                await self._end()

    def _tell(self, line: str) -> None:
        """Say a line; a full disk or a closed pipe must not end the care for the process."""
        with suppress(OSError):
            self.say(line)

    async def _ready(self) -> None:
        try:
            async with asyncio.timeout(self.spec.ready_seconds):
                if self.spec.once:
                    await self._finished()
                else:
                    await self._answering()
        except TimeoutError:
            raise StackFailed(self._failure(f"was not ready within {self.spec.ready_seconds:.0f} s")) from None

    async def _finished(self) -> None:
        assert self._process is not None
        if status := await self._process.wait():
            raise StackFailed(self._failure(f"ended with {status}"))

    async def _answering(self) -> None:
        assert self._process is not None
        while True:
            if self._process.returncode is not None:
                raise StackFailed(self._failure(f"ended with {self._process.returncode}"))
            # The child itself must hold the port: another server there would answer just as well.
            if listens(self._process.pid, self.spec.port) and await answers(self.spec):
                return
            await asyncio.sleep(_POLL)

    def _failure(self, what: str) -> str:
        tail = self.spec.log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace") if self.spec.log.exists() else ""
        return f"{self.spec.name} {what}; the end of {self.spec.log}:\n{tail}"


def listens(pid: int, port: int) -> bool:
    """Return whether that process itself listens on the TCP port."""
    try:
        found = psutil.Process(pid).net_connections(kind="tcp4")
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return _user_listens(port)
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in found)


def _user_listens(port: int) -> bool:
    """Return whether a process of this user listens on the port.

    Execute makes itself undumpable, and then not even its own user may read its sockets (prctl(2)); so the socket's
    owner has to be enough.
    """
    table = Path("/proc/net/tcp")
    rows = [line.split() for line in table.read_text().splitlines()[1:]] if table.exists() else []
    mine = str(os.getuid())
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" and row[7] == mine for row in rows)


async def answers(spec: Spec) -> bool:
    """Return whether it is ready: its greeting, or 200 at its path."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", spec.port)
            try:
                if spec.path is None:
                    return await reader.readexactly(len(spec.greeting)) == spec.greeting
                writer.write(f"GET {spec.path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (TimeoutError, OSError, asyncio.IncompleteReadError):
        return False


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def exit_with_parent(parent: int) -> Callable[[], None] | None:
    """Return a function to run between fork and exec: the child then dies with `parent`, even by SIGKILL (Linux)."""
    libc = _LIBC
    if libc is None:
        return None

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(1)

    return prepare
