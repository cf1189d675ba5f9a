"""One part of the system as a process of its own: in its namespace, on its disk, started, watched, hurt."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import httpx2
import psutil
import psycopg

from faults.component_disk import Disk
from faults.net import Net

_POLL = 0.05
_GRACE = 12.0
_AGAIN = 1.5
#: Names of processes below a part that belong to it; all others are agents.
OWN = ("ocf-worker", "postgres")


class NotReady(Exception):
    """A part did not come up."""


@dataclass
class Part:
    """A row of the system. `environ` and `argv` are asked at every start: a fault may have changed what they say.

    `ready` is the URL that answers 200 once it is, or that of a database; None: the port taking a connection is enough.
    """

    name: str
    net: Net
    disk: Disk
    argv: Callable[[], tuple[str, ...]]
    environ: Callable[[], Mapping[str, str]]
    port: int
    ready: str | None
    overrides: dict[str, str] = field(default_factory=dict)
    #: How it is asked to end. PostgreSQL would wait for its clients after a SIGTERM.
    farewell: signal.Signals = signal.SIGTERM
    process: asyncio.subprocess.Process | None = None
    #: Unplanned ends, which a supervisor (the kubelet, the stack) would start again as well.
    ends: int = 0
    _watching: asyncio.Task[None] | None = None
    _wanted: bool = False

    @property
    def address(self) -> str:
        return self.net.addresses[self.name]

    @property
    def pid(self) -> int:
        """Its pid. Raises NotReady when it does not run."""
        if self.process is None or self.process.returncode is not None:
            raise NotReady(f"{self.name} does not run")
        return self.process.pid

    async def start(self, *, wait: bool = True) -> None:
        """Start it; with `wait`, until it is ready. It is started again when it ends by itself."""
        self._wanted = True
        await self._spawn()
        self._watching = asyncio.create_task(self._watch())
        if wait:
            await self.is_ready()

    async def stop(self, number: signal.Signals | None = None) -> float:
        """End it with that signal or its own, and wait; seconds it took. SIGKILL follows where that is not enough."""
        self._wanted = False
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self.process is None or self.process.returncode is not None:
            return 0.0
        began = time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number or self.farewell)
        try:
            await asyncio.wait_for(self.process.wait(), _GRACE)
        except TimeoutError:
            with suppress(ProcessLookupError):  # it ended in this moment
                os.kill(self.process.pid, signal.SIGKILL)
            await self.process.wait()
        return time.monotonic() - began

    async def is_ready(self, timeout: float = 180.0) -> float:
        """Wait until it is; seconds it took. Raises NotReady, with the end of its log."""
        began = time.monotonic()
        async with httpx2.AsyncClient(timeout=3.0) as http:
            while time.monotonic() - began < timeout:
                if self.process is not None and self.process.returncode is None and await self._answers(http):
                    return time.monotonic() - began
                await asyncio.sleep(_POLL)
        raise NotReady(f"{self.name} was not ready within {timeout:.0f} s: {self.log()[-1500:]}")

    def log(self) -> str:
        """What it wrote, as far as its disk had room."""
        path = self.disk.path / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        """Send it, and the processes below that belong to it, a signal; agents are not meant."""
        own = psutil.Process(self.pid)
        for process in (own, *own.children()):
            with suppress(psutil.NoSuchProcess):
                if process == own or process.name() in OWN:
                    process.send_signal(number)

    async def _answers(self, http: httpx2.AsyncClient) -> bool:
        if self.ready is None:
            try:
                socket.create_connection((self.address, self.port), 0.5).close()
            except OSError:
                return False
            return True
        if self.ready.startswith("postgresql:"):
            try:
                await (await psycopg.AsyncConnection.connect(self.ready, connect_timeout=2)).close()
            except psycopg.Error:
                return False
            return True
        try:
            return (await http.get(self.ready)).status_code == 200
        except httpx2.HTTPError:
            return False

    async def _spawn(self) -> None:
        with (self.disk.path / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.net.inside(self.name, self.argv()),
                env={**self.environ(), "TMPDIR": str(self.disk.path / "tmp"), **self.overrides},
                cwd=self.disk.path,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _watch(self) -> None:
        while self._wanted:
            assert self.process is not None
            await self.process.wait()
            self.ends += 1
            await asyncio.sleep(_AGAIN)
            await self._spawn()

    def usage(self) -> dict[str, int]:
        """Memory in bytes, descriptors, threads."""
        process = psutil.Process(self.pid)
        return {"rss": process.memory_info().rss, "fds": process.num_fds(), "threads": process.num_threads()}
