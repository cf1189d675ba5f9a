"""A user of its own for each execution, from a range that nothing else uses (AGENT_UIDS; ADR 0011).

A user is taken by a lock that ends with this process, and never while it has processes, or a note in `STATE_DIR/users`
that it has files somewhere. The note is removed when its files are gone or belong to this process's user again. The
next start cleans up after a dead process.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from ocf.events.errors import OcfError
from ocf.functions.core import syscalls
from ocf.functions.execute.sandbox import filesystem_view

log = structlog.get_logger()

NEEDED = {
    "CHOWN": syscalls.CAP_CHOWN,
    "DAC_OVERRIDE": syscalls.CAP_DAC_OVERRIDE,
    "FOWNER": syscalls.CAP_FOWNER,
    "KILL": syscalls.CAP_KILL,
    "SETGID": syscalls.CAP_SETGID,
    "SETUID": syscalls.CAP_SETUID,
}
#: One byte per user, so that stacks of one machine that share a range never share a user.
_LOCKS = Path("/run/ocf-agent-users.lock")
_TRIES = 1000
_LAST_OUT_SECONDS = 30.0
_DYING_SECONDS = 5.0
_AGAIN = 0.05
#: Entries of a tree whose owner this process changes itself.
_SMALL = 200
#: After the users' bytes, one byte for each shared folder.
_FOLDERS = 1 << 40
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}


class NoUser(OcfError):
    """Every user of AGENT_UIDS is taken, or has processes or files left."""


def cannot_change_users(first: int, last: int, paths: tuple[Path, ...]) -> str | None:
    """Return why this process cannot give each execution a user of `first` to `last`; None when it can.

    `paths` are those its users must reach.
    """
    held = syscalls.capabilities()
    if missing := [name for name, number in NEEDED.items() if number not in held]:
        return f"without the capability {missing[0]} ({'root' if os.geteuid() else 'this root'} may not change users)"
    for kind in ("uid", "gid"):
        if not _mapped(Path(f"/proc/self/{kind}_map").read_text(), first, last):
            return f"this user namespace has no {kind} {first}-{last} (AGENT_UIDS)"
    if not {syscalls.CAP_SYS_ADMIN, syscalls.CAP_SYS_PTRACE} <= held:
        for path in paths:
            if path.exists() and (folder := filesystem_view.closed(str(path))) is not None:
                return f"{path} lies in {folder}, which other users may not pass through: chmod o+x {folder}"
    return None


def _mapped(table: str, first: int, last: int) -> bool:
    rows = (tuple(map(int, line.split())) for line in table.splitlines())
    return any(inside <= first and last < inside + count for inside, _, count in rows)


@dataclass
class AgentUser:
    """A taken user. `exclusive`: no other execution has it (those in one shared folder have one user together)."""

    uid: int
    exclusive: bool
    _lock: int
    _note: Path

    @property
    def ids(self) -> tuple[int, int]:
        """Return user id and group id, which are equal."""
        return self.uid, self.uid

    def own_new(self, path: Path) -> None:
        """Give it files that this process has just made, and that no agent could have touched yet."""
        os.chown(path, *self.ids, follow_symlinks=False)
        for parent, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(os.path.join(parent, name), *self.ids, follow_symlinks=False)

    async def hand_over(self, path: Path) -> None:
        """Call `own_new`; the interface that `HostUser` shares."""
        self.own_new(path)

    def note(self, folder: Path) -> None:
        """Record that it also has files in `folder`."""
        paths = [*json.loads(self._note.read_text()), str(folder)]
        self._note.write_text(json.dumps([*dict.fromkeys(paths)]))

    def share(self) -> None:
        """Let other executions of the same folder have it as well."""
        _locked(self._lock, self.uid, fcntl.F_RDLCK)
        self.exclusive = False

    async def own_tree(self, path: Path) -> None:
        """Give it everything below `path` that this process's user owns."""
        if not await asyncio.to_thread(_chown_small, path, os.geteuid(), self.uid):
            await _chown(f"--from={os.geteuid()}", f"{self.uid}:{self.uid}", path)

    async def end_processes(self) -> None:
        """Send SIGKILL to all of its processes at once."""
        if self.uid == os.geteuid():
            raise ValueError("that would end this process")
        # kill(-1) as that user reaches its processes and no others, and is atomic against fork.
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", "kill -9 -1", user=self.uid, group=self.uid, extra_groups=(), env={}, cwd="/",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await process.wait()

    async def without_processes(self) -> bool:
        """Wait a few seconds for its processes to end; return whether it has none."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_DYING_SECONDS):
                while _has_processes(self.uid):
                    await asyncio.sleep(_AGAIN)
                return True
        return False

    async def release(self) -> None:
        """Return shared files to this process's user, then the lock. A user with anything left stays taken."""
        paths: list[str] = json.loads(self._note.read_text()) if self._note.exists() else []
        try:
            if not self.exclusive and not _locked(self._lock, self.uid, fcntl.F_WRLCK):
                return  # others work in the shared folder; the last one returns the files
            if not await self.without_processes():
                raise OSError("it still has processes")
            for path in paths[1:]:
                await _chown(f"--from=:{self.uid}", f":{os.getegid()}", Path(path))
                await _chown(f"--from={self.uid}", str(os.geteuid()), Path(path))
            if paths and os.path.lexists(paths[0]):
                raise OSError(f"{paths[0]} is still there")
            self._note.unlink(missing_ok=True)
        except OSError as error:
            log.warning("user not released", action="users.kept", uid=self.uid, reason=str(error))
        finally:
            os.close(self._lock)


class AgentUsers:
    """The users of AGENT_UIDS. `notes` is a folder of this state directory; locks apply to the whole machine."""

    def __init__(self, first: int, last: int, notes: Path, locks: Path = _LOCKS) -> None:
        self._first, self._last = first, last
        self._notes = notes
        self._locks = locks
        notes.mkdir(mode=0o700, parents=True, exist_ok=True)

    def take(self, root: Path) -> AgentUser:
        """Take a free user; `root` is the folder for its files.

        Raises:
            NoUser: no user is free.
        """
        count = self._last - self._first + 1
        start = secrets.randbelow(count)
        for step in range(min(count, _TRIES)):
            uid = self._first + (start + step) % count
            if (user := self._taken(uid, fcntl.F_WRLCK, root)) is not None:
                return user
        raise NoUser(f"no user of {self._first}-{self._last} is free (AGENT_UIDS)")

    async def take_shared(self, folder: Path, root: Path) -> AgentUser:
        """Take the user that the shared `folder` has now, or a free one that is given the folder's files.

        Raises:
            NoUser: no user is free, or the last execution there does not return the files.
        """
        turn = self._open_locks()
        try:
            async with asyncio.timeout(_LAST_OUT_SECONDS):
                # One at a time per folder; an agent in it cannot hold this lock.
                while not _locked(turn, _FOLDERS + os.stat(folder).st_ino % _FOLDERS, fcntl.F_WRLCK):
                    await asyncio.sleep(_AGAIN)
                while (user := self._of(folder, root)) is None:
                    await asyncio.sleep(_AGAIN)
            user.note(folder)
            await _chown(f"--from={os.geteuid()}", str(user.uid), folder)
            user.share()
            return user
        except TimeoutError:
            raise NoUser(f"the user of the shared workspace was not released within {_LAST_OUT_SECONDS:g} s") from None
        finally:
            os.close(turn)

    def _of(self, folder: Path, root: Path) -> AgentUser | None:
        owner = os.stat(folder).st_uid
        if self._first <= owner <= self._last:
            return self._taken(owner, fcntl.F_RDLCK, root)  # None: its last execution is returning the files now
        return self.take(root)

    def _open_locks(self) -> int:
        return os.open(self._locks, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _taken(self, uid: int, kind: int, root: Path) -> AgentUser | None:
        note = self._notes / str(uid)
        exclusive = kind == fcntl.F_WRLCK
        if exclusive and note.exists():
            return None
        lock = self._open_locks()
        if not _locked(lock, uid, kind) or (exclusive and (note.exists() or _has_processes(uid))):
            os.close(lock)
            return None
        if not note.exists():
            note.write_text(json.dumps([str(root)]))
        return AgentUser(uid, exclusive, lock, note)

    async def recover(self) -> None:
        """Release the users of dead processes, after the folders of their executions have been removed."""
        async for user in self._left():
            log.info("user released after a crash", action="users.recovered", uid=user.uid)
            await user.release()

    async def _left(self) -> AsyncIterator[AgentUser]:
        for note in sorted(self._notes.iterdir()):
            lock = self._open_locks()
            if not _locked(lock, int(note.name), fcntl.F_WRLCK):
                os.close(lock)
                continue
            yield AgentUser(int(note.name), True, lock, note)


def _locked(lock: int, uid: int, kind: int) -> bool:
    # struct flock: l_type, l_whence, l_start, l_len, l_pid. A lock of the open file description, so `close` ends it.
    wanted = struct.pack("hhqqi4x", kind, os.SEEK_SET, uid, 1, 0)
    try:
        fcntl.fcntl(lock, fcntl.F_OFD_SETLK, wanted)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _has_processes(uid: int) -> bool:
    with suppress(ProcessLookupError):
        os.getpriority(os.PRIO_USER, uid)
        return True
    return False


def _chown_small(path: Path, owner: int, to: int) -> bool:
    """Give what `owner` has in a small tree to the user `to`; return False, with a part of it done, if it is not small.

    As chown(1) does: by descriptors, following no link. A process for it costs 20 ms of each start.
    """
    left = _SMALL
    for _, folders, files, fd in os.fwalk(path):
        left -= len(folders) + len(files)
        if left < 0:
            return False
        for name in (".", *folders, *files):
            with suppress(FileNotFoundError):  # removed since it was listed
                if os.stat(name, dir_fd=fd, follow_symlinks=False).st_uid == owner:
                    os.chown(name, to, to, dir_fd=fd, follow_symlinks=False)
    return True


async def _chown(which: str, to: str, path: Path) -> None:
    """Run chown(1), which walks with descriptors and follows no link, at any depth."""
    process = await asyncio.create_subprocess_exec(
        "chown", "-RhP", which, "--", to, str(path),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env=_ENVIRONMENT,
    )  # fmt: skip
    _, stderr = await process.communicate()
    if process.returncode:
        raise OSError(f"chown {path}: {stderr.decode(errors='replace').strip()[-300:]}")
