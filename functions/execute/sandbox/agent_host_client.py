"""Client of the agent's container: process trees start there, and files belong to its user (ADR 0013).

Both containers share a group, the network and one folder, but no process namespace. This side connects once, before
anything of an agent runs; the socket's name is gone then, so no process there can take the host's place. After the
host's end (out of memory, say) Kubernetes starts the next host in an empty container, with the folder unchanged.
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
import stat
import struct
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from ocf.events.errors import Unavailable
from ocf.functions.execute.sandbox.users import AgentUser
from ocf.functions.workspace import discard_tree
from ocf.functions.workspace.threads import in_thread

log = structlog.get_logger()

#: Kubernetes waits up to 10 s before it restarts a container after its first end, 20 s after the next.
CONNECT_SECONDS = 45.0
#: Time limit of one request about files. An agent may have made a million of them.
FILES_SECONDS = 300
_PING_SECONDS = 2
_AGAIN = 0.1
_HANDOVER = "handover-"


class HostGone(Unavailable, OSError):
    """The agent's container does not answer. An OSError, because a run treats it like a broken disk."""


class AgentHost:
    """The host behind `path`, in the folder `shared` of both containers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: socket.socket | None = None
        self._connecting = asyncio.Lock()
        self.shared = path.parent
        #: User id of the agent's container; -1 before the first connection.
        self.uid = -1
        self._leftovers = [left for left in self.shared.iterdir() if left != path]

    def take(self, root: Path) -> HostUser:
        """Return the user for an execution; `root` is the folder for its files."""
        return HostUser(self, root)

    async def take_shared(self, folder: Path, root: Path) -> HostUser:
        """Return the user for an execution in a shared folder; files there are open to the common group."""
        return HostUser(self, root)

    async def recover(self) -> None:
        """Remove files that an earlier process of this container left."""
        for path in self._leftovers:
            await self.discard(path)

    async def discard(self, path: Path) -> None:
        """Remove a folder, with files of any owner. A failure is logged and does not stop anything."""
        if path.name.startswith(_HANDOVER):
            await discard_tree(path)
            return
        try:
            await self.ask("remove", path=str(path), keep=False)
        except OSError as error:
            log.warning("files left behind", action="host.not_removed", path=str(path), reason=str(error))

    async def check(self) -> None:
        """Check readiness.

        Raises:
            Unavailable: the agent's container does not answer.
        """
        await self.ask("ping", seconds=_PING_SECONDS, connect=_PING_SECONDS)

    async def ask(
        self, do: str, *, seconds: int = FILES_SECONDS, connect: float = CONNECT_SECONDS, **arguments: Any
    ) -> dict[str, Any]:
        """Send one request and return its answer.

        Args:
            do: name of the request.
            seconds: time limit of the request.
            connect: time limit of the connection, before it.
            arguments: further fields of the request.

        Raises:
            HostGone: no answer in time.
            OSError: the host refused it; the message is the host's.
        """
        ours, theirs = socket.socketpair()
        try:
            await self.send({"do": do, "seconds": seconds, **arguments}, [theirs.fileno()], connect)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            async with asyncio.timeout(seconds + 1):
                line = await reader.readline()
        except TimeoutError:
            line = b""
        finally:
            writer.close()
        if not line:
            raise HostGone(f"the agent's container did not answer ({do}, {seconds} s)")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise OSError(f"the agent's container: {answer['error']}")
        return answer

    async def send(self, request: dict[str, Any], descriptors: list[int], connect: float = CONNECT_SECONDS) -> None:
        """Send a request whose answer comes on another link.

        Raises:
            HostGone: the agent's container is gone.
        """
        connection = await self._connected(connect)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        try:
            connection.sendmsg([json.dumps(request).encode()], [rights])
        except OSError as error:
            self.close()
            raise HostGone(f"the agent's container is gone: {error}") from None

    def close(self) -> None:
        """Close the connection, which ends everything in that container."""
        if self._connection is not None:
            asyncio.get_running_loop().remove_reader(self._connection)
            self._connection.close()
            self._connection = None

    async def _connected(self, seconds: float) -> socket.socket:
        async with self._connecting:
            if self._connection is None:
                connection = await self._new(seconds)
                self._connection = connection
                asyncio.get_running_loop().add_reader(connection, self._on_readable)
            return self._connection

    async def _new(self, seconds: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        connection.connect(str(self._path))
                        break
                    except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
                        await asyncio.sleep(_AGAIN)
            _, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid == os.geteuid() or gid != os.getegid():
                raise HostGone(f"the agent's container runs as {uid}:{gid}: another user of this group was expected")
            self.uid = uid
            return connection
        except TimeoutError:
            connection.close()
            raise HostGone(f"nobody listens on {self._path}: the agent's container is not there") from None
        except BaseException:
            connection.close()
            raise

    def _on_readable(self) -> None:
        """Close the connection: the host never writes on it, so a readable event means its end."""
        log.warning("the agent's container has ended", action="host.gone")
        self.close()


@dataclass
class HostUser:
    """The user of the agent's container, for one execution. The same interface as `users.AgentUser`."""

    host: AgentHost
    root: Path
    _identities: dict[Path, tuple[int, int]] = field(default_factory=dict)

    @property
    def uid(self) -> int:
        """Return the user id."""
        return self.host.uid

    @property
    def ids(self) -> None:
        """Return None: the supervisor runs as that user already."""

    @property
    def exclusive(self) -> bool:
        """Return False: its processes are counted as its supervisor's descendants."""
        return False

    async def make(self, *paths: Path) -> None:
        """Make its folders."""
        await self.host.ask("make", paths=[str(path) for path in paths])
        self._identities = {path: _identity(path) for path in paths}

    async def hand_over(self, path: Path) -> None:
        """Give it files that this process has just made in its folder `path`."""
        await self.own_tree(path)

    async def own_tree(self, path: Path) -> None:
        """Give it what this process put into the folder `path`. It copies the files: chown is not permitted.

        Raises:
            OSError: the copy failed.
        """
        if not path.is_relative_to(self.host.shared):
            return  # a shared workspace: the group may write there
        apart = self.host.shared / f"{_HANDOVER}{uuid.uuid4().hex}"
        try:
            if await in_thread(lambda _: _set_apart(path, apart)):
                await _let_group_read(apart)
                await self.host.ask("take", source=str(apart), target=str(path))
        finally:
            await discard_tree(apart)

    async def empty(self, path: Path) -> None:
        """Remove the contents of its folder `path`."""
        await self.host.ask("remove", path=str(path), keep=True)

    async def open_up(self, path: Path) -> None:
        """Let this process read everything in `path`, whatever its modes, after the agent's processes have ended.

        Raises:
            OSError: it failed, or another folder has taken its place.
        """
        known = self._identities.get(path)
        await self.host.ask("open", path=str(path))
        if known is not None and _identity(path) != known:
            raise OSError(f"the folder {path.name} was replaced since the start")

    async def exceeded_disk_limit(self, paths: tuple[Path, ...], limit: int, more: int) -> str | None:
        """Return which disk limit is exceeded, as a message; scanned by the host, which no folder is locked for."""
        answer = await self.host.ask("look", paths=[str(path) for path in paths], limit=limit, more=more)
        return None if answer["over"] is None else str(answer["over"])

    async def end_processes(self) -> None:
        """End everything in the container at once."""
        self.host.close()

    async def without_processes(self) -> bool:
        """Return whether the container's next host runs; it starts in an empty container."""
        try:
            await self.host.ask("ping", seconds=_PING_SECONDS)
        except HostGone:
            return False
        return True

    async def release(self) -> None:
        """Remove its files."""
        await self.host.discard(self.root)


#: Owner of an execution's processes and files, where it is not this process's own user.
Owner = AgentUser | HostUser


def _identity(path: Path) -> tuple[int, int]:
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(f"{path} is not a folder")
    return found.st_dev, found.st_ino


def _set_apart(path: Path, apart: Path) -> bool:
    """Move what this process owns to `apart`; return whether there is any."""
    with os.scandir(path) as entries:
        ours = [entry for entry in entries if entry.stat(follow_symlinks=False).st_uid == os.geteuid()]
    if not ours:
        return False
    apart.mkdir()
    apart.chmod(0o770)
    for entry in ours:
        os.rename(entry.path, apart / entry.name)
    return True


async def _let_group_read(path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        "chmod", "-R", "u+rX,g+rX", "--", str(path),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, "LC_ALL": "C"},
    )  # fmt: skip
    _, stderr = await process.communicate()
    if process.returncode:
        raise OSError(f"chmod: {stderr.decode(errors='replace').strip()[-300:]}")
