"""The process above the agent: starts it, sees every descendant, and leaves none behind.

Started by `process.py` as `python -I -S`, with one end of a socket pair as its only link to the function. The first
line in is the job, later ones are `{"stop": GRACE}` and `{"ask": true}`. Lines out: `started`, `failed`, `figures`
(answers `ask`), `limit`, `exit`, `stopped`. When the link closes (the function is gone, for whatever reason) the whole
tree dies at once. Standard library only, for a fast start.

Nothing escapes: this process is a child subreaper, so a daemonised process becomes its child, and `waitpid` reporting
"no children" proves that none is left. Killing is one `kill(-1, SIGKILL)` from inside a Landlock signal scope: it
reaches exactly our descendants and is atomic against `fork`, so a fork bomb cannot outrun it. Kernels without signal
scoping get sweeps over process groups and children instead, until none is left.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time

from ocf.functions.core import syscalls
from ocf.functions.execute.sandbox import confine, filesystem_view, idle_priority, procfs, socket_memory

TYPE_CHECKING = False  # `typing`, `socket` and `dataclasses` would double the time that this program takes to start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

WATCH_SECONDS = 0.25
STUCK_SECONDS = 5.0  # without another death in this time the rest is reported as stuck in the kernel
AGAIN_SECONDS = 0.1  # between two rounds of killing: each delays the exits of thousands while it scans all of them
THREADS_PER_PROCESS = 32  # threads allowed per allowed process
FILE_BYTES = 4096  # kernel memory per open descriptor: a pipe has two, and two pages at least
SOCKET_SCAN_SHARE = 0.02  # share of the time for asking the kernel about sockets, at most


class Supervisor:
    """Supervises one tree. `job` is the JSON that `process.py` writes."""

    def __init__(self, link: int, job: dict[str, Any]) -> None:
        self._link = link
        self._job = job
        self._buffer = b""
        self._main = 0
        self._code: int | None = None
        self._reaped = 0
        self._socket_bytes = 0
        self._next_socket_scan = 0.0
        self._buffer_bytes = socket_memory.largest_buffer()
        self._hidden = ""
        self._extension = -1
        if job["sandbox"] is not None:
            self._extension = os.open(job["sandbox"]["nono"], os.O_RDONLY | os.O_CLOEXEC)
        if job["user"] is not None:
            self._hidden = self._enter_view()
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        self._scoped = bool(job["scope_signals"]) and syscalls.scope_signals()
        self._wake, wake_write = os.pipe()
        for fd in (self._wake, wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _enter_view(self) -> str:
        """Hide other users' processes from the tree; return why that is impossible here, or ""."""
        # A later import may be in a folder that is about to be covered.
        import _socket  # noqa: F401

        if missing := {syscalls.CAP_SYS_ADMIN, syscalls.CAP_SYS_PTRACE} - syscalls.capabilities():
            return f"no capability {min(missing)}"
        try:
            filesystem_view.enter(self._job["paths"])
        except OSError as error:
            return str(error)
        return ""

    def _report(self, **report: str | int | float | bool) -> None:
        rest = json.dumps(report).encode() + b"\n"
        try:
            while rest:
                rest = rest[os.write(self._link, rest) :]
        except OSError:
            # The link is closed; the next wait sees that and kills the tree.
            return

    def run(self) -> None:
        """Run until the tree is gone."""
        error = self._start()
        if error:
            self._kill()
            self._report(event="failed", message=error)
            return
        if self._job["user"] is not None:
            # Enough to end and inspect the tree, also where root may not inspect every process.
            syscalls.set_fs_user(*self._job["user"])
            syscalls.keep_capabilities({syscalls.CAP_KILL, syscalls.CAP_SYS_PTRACE})
        self._report(event="started", pid=self._main, scoped=self._scoped, seen=self._hidden)
        watch_at = time.monotonic() + WATCH_SECONDS
        while True:
            lines = self._wait(max(0.0, watch_at - time.monotonic()))
            self._reap()
            if lines is None:
                self._kill()
                return
            for line in lines:
                received = json.loads(line)
                if "stop" in received:
                    self._stop(float(received["stop"]))
                    return
                self._count()
            if self._code is not None:
                # Processes that the agent left running have no purpose.
                killed, left = self._kill()
                self._report(event="exit", code=self._code, killed=killed, left=left)
                return
            if time.monotonic() >= watch_at:
                if self._over_limit():
                    return
                watch_at = time.monotonic() + WATCH_SECONDS

    def _count(self) -> None:
        """Report figures that the function cannot see from another process namespace."""
        tree = procfs.sample(os.getpid())
        self._report(
            event="figures",
            memory=tree.memory,
            processes=len(tree.pids),
            cpu_wait=procfs.cpu_wait_seconds(tree.pids),
            unlinked_open=procfs.unlinked_open_bytes(tree.pids),
        )

    def _start(self) -> str:
        """Fork and exec the agent; return why that failed, or ""."""
        failed_read, failed_write = os.pipe()
        supervisor = os.getpid()
        self._main = os.fork()
        if self._main == 0:
            _become_agent(self._job, self._extension, failed_write, scope=self._scoped, supervisor=supervisor)
        os.close(failed_write)
        if self._extension >= 0:
            os.close(self._extension)
        # The agent's output must end with the agent's tree, not with this process.
        nowhere = os.open("/dev/null", os.O_RDWR)
        for fd in (1, 2):
            os.dup2(nowhere, fd)
        with os.fdopen(failed_read, "rb") as pipe:
            return pipe.read().decode(errors="replace")  # ends with the exec: the other end closes with it

    def _wait(self, seconds: float) -> list[bytes] | None:
        """Return lines from the function, after at most `seconds` or a child's death; None when the link is closed."""
        ready, _, _ = select.select([self._link, self._wake], [], [], seconds)
        if self._wake in ready:
            os.read(self._wake, 4096)
        if self._link in ready:
            try:
                data = os.read(self._link, 65536)
            except OSError:
                data = b""
            if not data:
                return None
            self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        return lines

    def _reap(self) -> bool:
        """Collect ended children; return True when there is no child left, dead or alive."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            self._reaped += 1
            if pid == self._main:
                self._code = os.waitstatus_to_exitcode(status)

    def _over_limit(self) -> bool:
        """Kill the tree if it has too many processes or too much memory; return whether it was killed."""
        processes, memory = self._job["max_processes"], self._job["max_memory_bytes"]
        tree = procfs.sample(os.getpid(), at_most=processes)
        reason, value, limit = "", 0, 0
        if len(tree.pids) > processes:
            reason, value, limit = "processes", len(tree.pids), processes
        elif tree.threads > THREADS_PER_PROCESS * processes:
            reason, value, limit = "processes", tree.threads, THREADS_PER_PROCESS * processes
        elif (value := self._memory(tree, memory)) > memory:
            reason, limit = "memory", memory
        if not reason:
            return False
        killed, left = self._kill()
        self._report(event="limit", reason=reason, value=value, limit=limit)
        self._report(event="exit", code=self._code if self._code is not None else -9, killed=killed, left=left)
        return True

    def _memory(self, tree: procfs.Sample, limit: int) -> int:
        """Return the tree's memory in bytes, kernel memory included, measured only as closely as the limit needs."""
        files = FILE_BYTES * procfs.open_files(tree.pids)
        most = tree.rss + files + tree.tables
        if most + socket_memory.upper_bound(self._buffer_bytes) <= limit:
            return most
        kernel_bytes = files + procfs.page_tables(tree.pids) + self._in_sockets(tree)
        if tree.rss + kernel_bytes <= limit:
            return tree.rss + kernel_bytes
        return procfs.pss(tree.pids) + kernel_bytes

    def _in_sockets(self, tree: procfs.Sample) -> int:
        began = time.monotonic()
        if began < self._next_socket_scan:
            return self._socket_bytes
        user = self._job["user"]
        try:
            if user is not None and self._job["exclusive"]:
                self._socket_bytes = socket_memory.buffer_bytes(None, user[0])
            else:
                self._socket_bytes = socket_memory.buffer_bytes(procfs.socket_inodes(tree.pids), None)
        except OSError:
            # The kernel does not report it: the maximum counts.
            self._socket_bytes = self._buffer_bytes * len(procfs.socket_inodes(tree.pids))
        now = time.monotonic()
        self._next_socket_scan = now + (now - began) / SOCKET_SCAN_SHARE
        return self._socket_bytes

    def _stop(self, grace: float) -> None:
        """Send SIGTERM to the agent's group, wait `grace` seconds, then SIGKILL everything."""
        began = time.monotonic()
        self._reaped = 0
        _send(os.killpg, self._main, signal.SIGTERM)
        gone = self._reap()
        while not gone and (rest := began + grace - time.monotonic()) > 0:
            # A closed link cuts the grace short: no one waits for a clean end.
            if self._wait(rest) is None:
                break
            gone = self._reap()
        ended = self._reaped
        killed, left = (0, 0) if gone else self._kill()
        seconds = time.monotonic() - began
        code = self._code if self._code is not None else -9
        self._report(event="stopped", code=code, killed=ended + killed, left=left, seconds=round(seconds, 4))

    def _kill(self) -> tuple[int, int]:
        """SIGKILL every descendant until none is left; return (killed, left)."""
        before = count = self._reaped
        seen: set[int] = set()
        alive_at = time.monotonic()
        kill_at = 0.0
        left = 0
        while not self._reap():
            now = time.monotonic()
            if self._reaped > count:
                count, alive_at = self._reaped, now
            elif now > alive_at + STUCK_SECONDS:
                left = len(procfs.sample(os.getpid()).pids)
                break
            if now >= kill_at:
                if self._scoped:
                    _send(os.kill, -1, signal.SIGKILL)
                else:
                    self._sweep(seen)
                kill_at = time.monotonic() + AGAIN_SECONDS
            if select.select([self._wake], [], [], 0.01)[0]:
                os.read(self._wake, 4096)
        return max(self._reaped - before, len(seen)), left

    def _sweep(self, seen: set[int]) -> None:
        """Kill once without signal scoping. Stopped processes do not fork, so a bomb runs out of runners."""
        pids = procfs.sample(os.getpid()).pids
        seen.update(pids)
        for group in procfs.groups(pids) - {0, 1, os.getpgrp()}:
            # Atomic within the group. Groups never span sessions, and the agent's session is its own.
            _send(os.killpg, group, signal.SIGKILL)
        for one in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                _send(os.kill, pid, one)


def _send(how: Callable[[int, int], None], target: int, number: signal.Signals) -> None:
    try:
        how(target, number)
    except (ProcessLookupError, PermissionError):
        # Gone already, or not ours (a reused pid): the next scan of /proc and waitpid decide.
        return


def _become_agent(job: dict[str, Any], extension: int, failed: int, *, scope: bool, supervisor: int) -> NoReturn:
    """Set up limits, user and sandbox in the forked child, then exec. Never returns to the supervisor's code."""
    try:
        # First, because a supervisor that is late is killed: no agent may begin after it.
        _die_with(supervisor)
        signal.set_wakeup_fd(-1)
        # Python ignores the last two, and an ignored signal stays ignored over exec.
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        if job["idle"]:
            idle_priority.lower_self()
        # When the machine runs out of memory, the agent goes first, not the function or this process. Raising the score
        # is always allowed; lowering it below the kubelet's value is not.
        with open("/proc/self/oom_score_adj", "r+") as score:
            raised = min(1000, int(score.read()) + 300)
            score.seek(0)
            score.write(str(raised))
        confine.limit_resources(job["open_files"])
        # By its descriptor, because its folder may be closed to the agent's user.
        nono = None if job["sandbox"] is None else confine.load(f"/proc/self/fd/{extension}")
        if job["user"] is not None:
            syscalls.switch_user(*job["user"])
            _die_with(supervisor)  # a change of the user resets it
        os.chdir(job["cwd"])
        if nono is not None:
            confine.confine(job["sandbox"], nono)
        elif scope:
            syscalls.scope_signals()  # also without a sandbox the agent cannot signal the supervisor
        os.execvpe(job["argv"][0], job["argv"], job["env"])  # noqa: S606 - starting this program is the purpose
    except BaseException as error:
        os.write(failed, f"{type(error).__name__}: {error}".encode()[:4096])
    os._exit(127)


def _die_with(supervisor: int) -> None:
    """Let the kernel kill this process when its parent `supervisor` ends; end it at once if that has ended."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(127)


def main(fd: int) -> None:
    """Run the supervisor; `fd` is its end of the link."""
    os.set_inheritable(fd, False)
    received = b""
    while not received.endswith(b"\n"):
        data = os.read(fd, 65536)
        if not data:
            os._exit(1)
        received += data
    try:
        supervisor = Supervisor(fd, json.loads(received))
    except OSError as error:
        os.write(fd, json.dumps({"event": "failed", "message": str(error)}).encode() + b"\n")
        os._exit(1)
    supervisor.run()
    os._exit(0)  # nothing to clean up that the kernel does not do faster
