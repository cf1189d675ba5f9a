"""First process of the agent's container: starts process trees and works on their files, as the agent's own user.

Arguments: the path of its socket, and the user that may connect. It holds no key. `agent_host_client` in the other
container connects once and sends requests (JSON, one packet each) with the descriptors that they need. The answer to
each comes on a link of its own. When the connection ends, this process ends. It is the first of its process namespace,
so everything in the container ends with it, and Kubernetes starts the container again. It also ends when a supervisor
dies, because then nothing knows what is left of that tree. Standard library only, started as `python -I -S`.
"""

from __future__ import annotations

import array
import json
import os
import select
import shutil
import signal
import socket
import stat
import struct
import sys
from pathlib import Path

from ocf.functions.core import syscalls
from ocf.functions.execute.sandbox import supervisor
from ocf.functions.execute.sandbox.disk_usage import DiskUsageScan
from ocf.functions.execute.sandbox.readable_tree import make_readable

TYPE_CHECKING = False  # as in supervisor.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

MAX_REQUEST = 65536
MAX_DESCRIPTORS = 3
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}


class Refused(Exception):
    """A request cannot be carried out; the message is for the requester's log."""


def make(paths: list[str]) -> None:
    """Make folders that both containers may write to; they share the group."""
    for path in paths:
        os.mkdir(path)
        os.chmod(path, 0o770)  # noqa: S103 - whatever the umask is


def take(source: str, target: str) -> None:
    """Copy the contents of `source` to `target`, so that this user owns them; modes and times are preserved."""
    _run("cp", "-dR", "--preserve=mode,timestamps", "--reflink=auto", "--", f"{source}/.", target)


def open_up(path: str) -> None:
    """Let the group read everything in `path`."""
    make_readable(Path(path), 0o440)


def remove(path: str, *, keep: bool) -> None:
    """Remove the folder `path`, or only its contents; locked folders and any depth included."""
    if not os.path.lexists(path):
        return
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    _run("chmod", "-R", "u+rwX", "--", path, check=False)
    paths = [f"{path}/{name}" for name in os.listdir(path)] if keep else [path]
    for each in paths:
        _run("rm", "-rf", "--", each)


def look(paths: list[str], limit: int, more: int) -> str | None:
    """Return which disk limit is exceeded; `more` is bytes to add that no scan finds."""
    found = DiskUsageScan(limit)
    for path in paths:
        found.scan(Path(path))
    found.size += more
    return found.over


def _run(*command: str, check: bool = True) -> None:
    """Run a program of coreutils: these walk with descriptors, follow no link, and have no limit of depth."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 2)
        os.execvpe(command[0], command, _ENVIRONMENT)  # noqa: S606 - starting this program is the purpose
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        stderr = pipe.read(4096)
        while pipe.read(65536):
            pass
    _, status = os.waitpid(pid, 0)
    if status and check:
        raise Refused(f"{command[0]}: {stderr.decode(errors='replace').strip()[-300:]}")


def _do(request: dict[str, Any]) -> dict[str, Any]:
    match request["do"]:
        case "ping":
            return {}
        case "make":
            make(request["paths"])
        case "take":
            take(request["source"], request["target"])
        case "open":
            open_up(request["path"])
        case "remove":
            remove(request["path"], keep=request["keep"])
        case "look":
            return {"over": look(request["paths"], request["limit"], request["more"])}
        case other:
            raise Refused(f"unknown request {other!r}")
    return {}


def _helper(request: dict[str, Any], link: int) -> None:
    """Carry out a request in a process of its own, which ends when its time is up."""

    def late(*_: object) -> None:
        os.killpg(0, signal.SIGKILL)

    os.setsid()
    signal.signal(signal.SIGALRM, late)
    signal.alarm(max(1, int(request["seconds"])))
    try:
        answer = _do(request)
    except (OSError, Refused, shutil.Error) as error:
        answer = {"error": str(error)}
    os.write(link, json.dumps(answer).encode() + b"\n")


def _tree(_: dict[str, Any], link: int, stdout: int, stderr: int) -> None:
    """Become the supervisor of a tree; the job comes over the link."""
    os.setsid()
    os.chdir("/")
    for fd, number in ((stdout, 1), (stderr, 2)):
        os.dup2(fd, number)
        os.close(fd)
    supervisor.main(link)


class Host:
    """Serves one connection."""

    def __init__(self, path: str, uid: int) -> None:
        self._path = path
        self._uid = uid
        self._trees: set[int] = set()
        self._connection: socket.socket | None = None
        self._wake = -1

    def serve(self) -> str:
        """Serve until the process must end; return the reason."""
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        os.umask(0o022)
        self._wake, wake_write = os.pipe()
        for fd in (self._wake, wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        connection = self._connection = self._accepted()
        asked = connection.fileno()
        while True:
            ready, _, _ = select.select([asked, self._wake], [], [])
            if self._wake in ready:
                os.read(self._wake, 4096)
            if why := self._reaped():
                return why
            if asked in ready and (why := self._take(connection)):
                return why

    def _on_sigterm(self, *_: object) -> None:
        """Ignore SIGTERM while connected.

        The whole pod is signalled at once, but a run that may still end needs this process, which ends with the other
        container's connection.
        """
        if self._connection is None:
            sys.exit(0)

    def _accepted(self) -> socket.socket:
        """Accept the connection of the permitted user, then unlink the socket so that the agent cannot reach it."""
        remove(self._path, keep=False)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(self._path)
        os.chmod(self._path, 0o660)
        listener.listen(4)
        while True:
            connection, _ = listener.accept()
            _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid == self._uid:
                break
            connection.close()
        os.unlink(self._path)
        listener.close()
        return connection

    def _reaped(self) -> str:
        """Collect ended children; return why this process must end, or ""."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ""
            if pid == 0:
                return ""
            if pid in self._trees:
                self._trees.discard(pid)
                if os.waitstatus_to_exitcode(status) < 0:
                    return "a supervisor was killed"

    def _take(self, connection: socket.socket) -> str:
        """Handle one request; return why this process must end, or ""."""
        space = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
        try:
            data, received, _, _ = connection.recvmsg(MAX_REQUEST, space, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            return str(error)
        if not data:
            return "the other container's connection has ended"
        descriptors = list(_descriptors(received))
        try:
            request = json.loads(data)
            tree = request["do"] == "tree"
            if len(descriptors) != (3 if tree else 1):
                raise ValueError("wrong number of descriptors")
            pid = self._forked(_tree if tree else _helper, request, descriptors)
            if tree:
                self._trees.add(pid)
        except (ValueError, KeyError, OSError) as error:
            sys.stderr.write(f"ocf: agent host: request refused: {error}\n")  # the closed link is the answer
        finally:
            for fd in descriptors:
                os.close(fd)
        return ""

    def _forked(self, work: Callable[..., None], request: dict[str, Any], descriptors: list[int]) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            os.close(self._wake)
            if self._connection is not None:
                self._connection.close()
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            work(request, *descriptors)
            os._exit(0)
        except BaseException as error:
            os.write(2, f"ocf: agent host: {type(error).__name__}: {error}\n".encode()[:4096])
        os._exit(1)


def _descriptors(received: list[Any]) -> Iterator[int]:
    for level, kind, data in received:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found = array.array("i")
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
            yield from found


def main() -> NoReturn:
    """Serve one connection and exit with status 0, so that the container is started again."""
    path, uid = sys.argv[1], int(sys.argv[2])
    why = Host(path, uid).serve()
    sys.stderr.write(f"ocf: agent host ends: {why}\n")
    os._exit(0)
