"""An agent's process tree as the function sees it. `supervisor.py`, one per tree, does the work."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ocf
from ocf.events.errors import OcfError
from ocf.events.lifecycle import Reason
from ocf.functions.core import syscalls
from ocf.functions.execute.sandbox import policy as sandbox
from ocf.functions.execute.sandbox import procfs
from ocf.functions.execute.sandbox.agent_host_client import AgentHost, HostGone, HostUser, Owner

TAIL_LINES = 50
_OUTPUT_BYTES = 1024 * 1024
MAX_LINE_BYTES = 8192
OPEN_FILES = 16_384
#: Marks the processes of a tree, so that they can be found when its supervisor is dead.
TREE_VARIABLE = "OCF_TREE"
# A fork bomb's thousands of processes take this long to die on a busy machine; the supervisor gives up after 5 s
# without progress.
_ANSWER_SECONDS = 30.0
# A supervisor starts within a second; on a machine that has nothing left within many. A frozen container never answers.
_START_SECONDS = 120.0
_ORPHAN_SECONDS = 2.0
_ASK_SECONDS = 1.0

#: The folder that Python imports `ocf` from.
_ROOT = Path(ocf.__file__).resolve().parents[1]
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from ocf.functions.execute.sandbox.supervisor import main; main(int(sys.argv[2]))"
)


#: Gets the name of an output (`stdout`, `stderr`) and a piece of it.
OnOutput = Callable[[str, bytes], Awaitable[None]]


class AgentFailed(OcfError):
    """The agent could not be started, or ended before it was done."""

    def __init__(self, reason: Reason, message: str, stderr_tail: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.stderr_tail = stderr_tail


class AgentNotReady(AgentFailed):
    """The agent did not become ready in time; it has done nothing yet."""


@dataclass(frozen=True)
class ProcessSpec:
    """The process to run. `sandbox=None` runs it without a sandbox (SANDBOX=off).

    `env` is the agent's whole environment, apart from `OCF_TREE`, a random mark of the tree. `user` is the user it runs
    as, None for this process's own; `paths` must then be made reachable for that user. `idle` starts it at idle
    priority (`priority.raise_tree` ends that).
    """

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]
    sandbox: sandbox.SandboxPolicy | None
    max_processes: int
    max_memory_bytes: int
    user: Owner | None = None
    paths: tuple[Path, ...] = ()
    idle: bool = False


@dataclass(frozen=True)
class StopReport:
    """End of a tree: how many processes were killed, and how many could not be (normally 0)."""

    killed: int
    left: int
    seconds: float


@dataclass(frozen=True)
class LimitHit:
    """The supervisor killed the tree: `what` is `processes` or `memory` (bytes)."""

    what: str
    value: int
    limit: int


class AgentProcess:
    """A running tree, made by `start_process`. Ends with the agent, with `stop`, or with this process."""

    def __init__(
        self,
        supervisor: asyncio.subprocess.Process | _RemoteSupervisor,
        link: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        mark: str,
        user: Owner | None = None,
        on_output: OnOutput | None = None,
    ) -> None:
        self.pid = supervisor.pid
        self.scoped = False
        #: Why other users' processes are not hidden from it; empty where they are, or where it has no user of its own.
        self.visibility_error = ""
        self.limit_hit: LimitHit | None = None
        self._supervisor = supervisor
        self._user = user
        self._mark = f"{TREE_VARIABLE}={mark}".encode()
        self._reader, self._writer = link
        self._lines: dict[str, deque[str]] = {"stdout": deque(maxlen=TAIL_LINES), "stderr": deque(maxlen=TAIL_LINES)}
        self._waiters: list[tuple[re.Pattern[str], asyncio.Future[re.Match[str]]]] = []
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._report: StopReport | None = None
        self._figures: dict[str, float] = {}
        self._tasks = [asyncio.create_task(self._follow_reports())]
        for name, stream in (("stdout", supervisor.stdout), ("stderr", supervisor.stderr)):
            if stream is not None:
                self._tasks.append(asyncio.create_task(self._follow_output(stream, self._lines[name], name, on_output)))
        self._polling = asyncio.create_task(self._poll_figures()) if isinstance(supervisor, _RemoteSupervisor) else None

    @property
    def stdout_lines(self) -> list[str]:
        """Return the last 50 lines of standard output."""
        return list(self._lines["stdout"])

    @property
    def stderr_tail(self) -> list[str]:
        """Return the last 50 lines of standard error."""
        return list(self._lines["stderr"])

    async def wait_line(self, pattern: re.Pattern[str], timeout: float) -> re.Match[str]:
        """Return the first match of `pattern` in either output, past lines included; `timeout` in seconds.

        Raises:
            AgentFailed: the agent ended first, or the time is up; with the tail of its standard error.
        """
        for line in (*self._lines["stdout"], *self._lines["stderr"]):
            if found := pattern.search(line):
                return found
        waiter: asyncio.Future[re.Match[str]] = asyncio.get_running_loop().create_future()
        self._waiters.append((pattern, waiter))
        try:
            either: set[asyncio.Future[Any]] = {waiter, self._ended}
            await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not waiter.done() and self._ended.done():
                # Its last lines may still be in the pipe.
                await asyncio.wait(self._tasks[1:], timeout=1.0)
            if waiter.done():
                return waiter.result()
        finally:
            self._waiters.remove((pattern, waiter))
        if self._ended.done():
            raise self._failed(f"the agent ended with code {self._ended.result()} before it was ready")
        raise AgentNotReady(Reason.AGENT_ERROR, f"the agent was not ready after {timeout:g} s", tuple(self.stderr_tail))

    def _failed(self, message: str) -> AgentFailed:
        reason = Reason.AGENT_ERROR
        if self.limit_hit is not None:
            hit = self.limit_hit
            message = f"the agent's tree was ended: {hit.what} {hit.value} over the limit of {hit.limit}"
            reason = Reason.OUT_OF_MEMORY if hit.what == "memory" else Reason.AGENT_ERROR
        return AgentFailed(reason, message, tuple(self.stderr_tail))

    def memory_bytes(self) -> int:
        """Return the memory of the whole tree in bytes, daemonised processes included, without the supervisor.

        An estimate that takes 0.3 ms (PSS takes 20 ms per OpenCode): private pages of all processes, and the shared
        pages of the process that has most of them. The supervisor enforces the limit and measures more closely then.
        """
        return int(self._figures.get("memory", 0)) if self._polling else procfs.sample(self.pid).memory

    def process_count(self) -> int:
        """Return the number of processes in the tree, zombies included, without the supervisor."""
        return int(self._figures.get("processes", 0)) if self._polling else len(procfs.sample(self.pid).pids)

    def cpu_wait_seconds(self) -> float:
        """Return how long the tree has waited for a CPU so far."""
        if self._polling:
            return self._figures.get("cpu_wait", 0.0)
        return procfs.cpu_wait_seconds(procfs.sample(self.pid).pids)

    @property
    def ended(self) -> bool:
        """Return whether the agent has ended."""
        return self._ended.done()

    def unlinked_open_bytes(self) -> int:
        """Return the bytes on disk of files that the tree has deleted and holds open."""
        if self._polling:
            return int(self._figures.get("unlinked_open", 0))
        ids = None if self._user is None else self._user.ids
        pids = procfs.sample(self.pid).pids
        return syscalls.call_as_fs_user(ids, lambda: procfs.unlinked_open_bytes(pids))

    async def output_read(self) -> None:
        """Wait until both outputs are read to their end."""
        await asyncio.wait(self._tasks[1:])

    async def exited(self) -> int:
        """Wait until the agent and its tree have ended; return its exit code (negative: the signal)."""
        return await asyncio.shield(self._ended)

    async def stop(self, grace: float = 0.3) -> StopReport:
        """End the tree: SIGTERM to the agent's group, `grace` seconds, SIGKILL to every descendant, check.

        Safe to call again and after the end; the report is then that of the end.
        """
        if not self._ended.done():
            self._writer.write(json.dumps({"stop": grace}).encode() + b"\n")
        await asyncio.wait({self._ended}, timeout=grace + _ANSWER_SECONDS)
        if not self._ended.done():
            # The supervisor does not answer; closing the link and its death (PDEATHSIG) end the agent.
            self._supervisor.kill()
            await asyncio.wait({self._ended}, timeout=_ORPHAN_SECONDS + 1.0)
        if self._polling:
            self._polling.cancel()
        self._writer.close()
        await asyncio.wait(self._tasks, timeout=1.0)
        for task in self._tasks:
            task.cancel()  # a listener may not take the rest of the output
        await self._supervisor.wait()
        return self._report or StopReport(killed=0, left=0, seconds=0.0)

    async def _poll_figures(self) -> None:
        """Ask the supervisor for figures: in another process namespace only it can count."""
        while not self._ended.done():
            self._writer.write(b'{"ask": true}\n')
            await asyncio.wait({self._ended}, timeout=_ASK_SECONDS)

    async def _follow_reports(self) -> None:
        """Read the supervisor's reports until it has reported the end, or is gone."""
        with suppress(ConnectionError):  # same as the end of the stream: the supervisor is gone
            while line := await self._reader.readline():
                self._take(json.loads(line))
        if not self._ended.done():
            self._report = await self._end_orphans()
            self._ended.set_result(-signal.SIGKILL)

    async def _end_orphans(self) -> StopReport:
        """End the tree after its supervisor was killed: PDEATHSIG has ended the agent; the mark finds the rest."""
        began = time.monotonic()
        killed: set[int] = set()
        if self._user is not None and self._user.exclusive:
            await self._user.end_processes()
            await self._user.without_processes()
        while (left := procfs.with_variable(self._mark)) and time.monotonic() - began < _ORPHAN_SECONDS:
            killed.update(left)
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.02)
        return StopReport(len(killed), len(left), round(time.monotonic() - began, 4))

    def _take(self, report: dict[str, Any]) -> None:
        event = report["event"]
        if event == "figures":
            self._figures = report
        elif event == "limit":
            self.limit_hit = LimitHit(report["reason"], report["value"], report["limit"])
        elif event in ("exit", "stopped"):
            self._report = StopReport(report["killed"], report["left"], report.get("seconds", 0.0))
            if not self._ended.done():
                self._ended.set_result(report["code"])

    async def _follow_output(
        self, stream: asyncio.StreamReader, lines: deque[str], name: str, on_output: OnOutput | None
    ) -> None:
        """Read the pipe until it closes; over-long lines are cut."""
        rest = b""
        while data := await stream.read(65536):
            if on_output is not None:
                await on_output(name, data)
            *complete, rest = (rest + data).split(b"\n")
            if not self._waiters:
                complete = complete[-TAIL_LINES:]
            for raw in complete:
                self._add_line(raw, lines)
            if len(rest) > MAX_LINE_BYTES:
                rest = rest[:MAX_LINE_BYTES]
        if rest:
            self._add_line(rest, lines)

    def _add_line(self, raw: bytes, lines: deque[str]) -> None:
        line = raw[:MAX_LINE_BYTES].decode(errors="replace").rstrip("\r")
        lines.append(line)
        for pattern, waiter in self._waiters:
            if not waiter.done() and (found := pattern.search(line)):
                waiter.set_result(found)


class _RemoteSupervisor:
    """A supervisor started by the agent's container: its link and output, without a process of ours."""

    pid = 0

    def __init__(self, host: AgentHost, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader) -> None:
        self._host = host
        self.stdout, self.stderr = stdout, stderr

    def kill(self) -> None:
        """End everything in that container, because the supervisor does not answer."""
        self._host.close()

    async def wait(self) -> int:
        """Return 0 at once: its host collects the process."""
        return 0

    async def communicate(self) -> tuple[bytes, bytes]:
        """Return its output until it ends."""
        return await self.stdout.read(_OUTPUT_BYTES), await self.stderr.read(_OUTPUT_BYTES)


async def _start_remote(host: AgentHost, link: socket.socket) -> _RemoteSupervisor:
    """Start a supervisor in the agent's container.

    Raises:
        HostGone: the container is gone.
    """
    loop, ends = asyncio.get_running_loop(), [link.fileno()]
    readers = asyncio.StreamReader(), asyncio.StreamReader()
    try:
        for protocol in map(asyncio.StreamReaderProtocol, readers):
            read, write = os.pipe()
            ends.append(write)
            await loop.connect_read_pipe(partial(_return_protocol, protocol), os.fdopen(read, "rb", 0))
        await host.send({"do": "tree"}, ends)
    finally:
        for fd in ends[1:]:
            os.close(fd)
    return _RemoteSupervisor(host, *readers)


def _return_protocol(protocol: asyncio.StreamReaderProtocol) -> asyncio.StreamReaderProtocol:
    return protocol


async def _start_local(link: socket.socket) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", _BOOT, str(_ROOT), str(link.fileno())),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=(link.fileno(),),
        # Nothing of the function's environment, which holds the real keys.
        env={},
        cwd="/",
        start_new_session=True,
    )


async def start_process(
    spec: ProcessSpec, *, scope_signals: bool = True, on_output: OnOutput | None = None
) -> AgentProcess:
    """Start the agent under a supervisor of its own; return once it has been executed.

    Args:
        spec: the process to run.
        scope_signals: False tests the way of older kernels.
        on_output: gets each piece of `stdout` and `stderr`; the process waits while it does not return.

    Raises:
        AgentFailed: it could not be started or sandboxed; nothing is left running.
        sandbox.SandboxUnavailable: a sandbox is wanted and nono-py is not installed.
    """
    plan = None if spec.sandbox is None else sandbox.plan(spec.sandbox, sandbox.sandbox_support())
    mark = secrets.token_hex(16)
    job: dict[str, Any] = {
        "argv": spec.argv,
        "cwd": str(spec.cwd),
        "env": {**spec.env, TREE_VARIABLE: mark},
        "sandbox": plan,
        "max_processes": spec.max_processes,
        "max_memory_bytes": spec.max_memory_bytes,
        "open_files": OPEN_FILES,
        "scope_signals": scope_signals,
        "user": None if spec.user is None else spec.user.ids,
        "exclusive": spec.user is not None and spec.user.exclusive,
        "paths": [str(path) for path in spec.paths],
        "idle": spec.idle,
    }
    ours, theirs = socket.socketpair()
    try:
        supervisor: asyncio.subprocess.Process | _RemoteSupervisor
        if isinstance(spec.user, HostUser):
            supervisor = await _start_remote(spec.user.host, theirs)
        else:
            supervisor = await _start_local(theirs)
    except HostGone as error:
        ours.close()
        raise AgentNotReady(Reason.AGENT_ERROR, str(error)) from None
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    reader, writer = await asyncio.open_connection(sock=ours)
    # The job goes over the link, not in argv: every process of the machine can read command lines.
    writer.write(json.dumps(job).encode() + b"\n")
    try:
        async with asyncio.timeout(_START_SECONDS):
            answer = await reader.readline()
    except TimeoutError:
        writer.close()
        supervisor.kill()
        # It ends when its pipes are closed, and a process below it that hangs in the kernel keeps them open.
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                await supervisor.wait()
        message = f"the agent's supervisor did not answer within {_START_SECONDS:g} s"
        raise AgentNotReady(Reason.AGENT_ERROR, message) from None
    except BaseException:
        # Cancelled while starting: the closed link ends the tree.
        writer.close()
        raise
    first: dict[str, Any] = json.loads(answer) if answer else {"event": "failed", "message": "its supervisor ended"}
    if first["event"] != "started":
        writer.close()
        _, stderr = await supervisor.communicate()
        tail = tuple(stderr.decode(errors="replace").splitlines()[-TAIL_LINES:])
        raise AgentFailed(Reason.AGENT_ERROR, f"the agent could not be started: {first['message']}", tail)
    process = AgentProcess(supervisor, (reader, writer), mark, spec.user, on_output)
    process.scoped, process.visibility_error = bool(first["scoped"]), str(first["seen"])
    return process
