"""How much an agent has put on the disk, also below paths too long to open, in locked folders, as names alone.

So nothing here goes by a path, or needs memory for what it has seen: every open is relative to a descriptor and never
through a link, and a look ends as soon as a bound is passed.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

#: Files and folders of one execution; file systems have as few as that to give.
MAX_ENTRIES = 1_000_000
#: What an entry takes at least: its inode, its name.
_ENTRY_BYTES = 512
#: Folders of one branch that are held open; those above are found again by `..`.
_OPEN = 64
_TRIES = 3
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME_ONLY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Moved(Exception):
    """A branch is not where it was when it was entered."""


class _Locked(Exception):
    """A folder of the agent's own does not open."""


class _LimitReached(Exception):
    """A bound is passed."""


@dataclass
class _Folder:
    fd: int
    names: list[str]
    identity: tuple[int, int]
    #: The mode it has without us.
    mode: int | None = None


@dataclass
class DiskUsageScan:
    """One look at some trees; `size` in bytes on disk."""

    limit: int
    size: int = 0
    entries: int = 0
    hidden: bool = False
    _branch: list[_Folder] = field(default_factory=list)

    @property
    def over(self) -> str | None:
        """Which bound is passed, in words."""
        if self.entries > MAX_ENTRIES:
            return f"the workspace has more than {MAX_ENTRIES} files and folders"
        if self.size > self.limit:
            return f"the workspace is larger than {self.limit} bytes"
        return "the workspace holds folders that cannot be looked into" if self.hidden else None

    def scan(self, root: Path) -> None:
        """Count what is below `root`; less of it once a bound is passed."""
        before = (self.size, self.entries)
        for _ in range(_TRIES):
            self.size, self.entries = before
            try:
                self._walk(root)
                return
            except _LimitReached:
                return
            except FileNotFoundError:
                return  # not there yet, or gone already
            except (_Moved, _Locked):
                continue  # it changes while it is looked at
            finally:
                while self._branch:
                    self._leave(self._branch.pop())
        self.hidden = True

    def _walk(self, root: Path) -> None:
        self._enter(str(root), None)
        while self._branch:
            here = self._branch[-1]
            if here.names:
                self._enter(here.names.pop(), here.fd)
                continue
            if len(self._branch) > 1 and self._branch[-2].fd < 0:
                self._return(self._branch[-2], here.fd)
            self._leave(self._branch.pop())

    def _enter(self, name: str, parent: int | None) -> None:
        opened = _opened(name, parent)
        if opened is None:
            return
        fd, mode = opened
        found = os.fstat(fd)
        self._branch.append(_Folder(fd, [], (found.st_dev, found.st_ino), mode))
        if len(self._branch) > _OPEN:
            self._leave(self._branch[-_OPEN - 1])
        with os.scandir(fd) as entries:
            for entry in entries:
                self._count(entry)

    def _count(self, entry: os.DirEntry[str]) -> None:
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return  # removed between the look and the read
        self.entries += 1
        self.size += max(found.st_blocks * 512, _ENTRY_BYTES)
        if self.size > self.limit or self.entries > MAX_ENTRIES:
            raise _LimitReached
        if stat.S_ISDIR(found.st_mode):
            self._branch[-1].names.append(entry.name)

    def _return(self, above: _Folder, below: int) -> None:
        opened = _opened("..", below)
        if opened is None:
            raise _Moved
        above.fd, above.mode = opened
        found = os.fstat(above.fd)
        if (found.st_dev, found.st_ino) != above.identity:
            raise _Moved

    @staticmethod
    def _leave(folder: _Folder) -> None:
        if folder.fd < 0:
            return
        if folder.mode is not None:
            with suppress(OSError):  # on its way out
                os.fchmod(folder.fd, folder.mode)
        os.close(folder.fd)
        folder.fd = -1


def _opened(name: str, parent: int | None) -> tuple[int, int | None] | None:
    """A folder's descriptor, and the mode to give back to it where it had to be unlocked; None where there is none.

    Raises:
        _Locked: it is the agent's own, and stays locked.
    """
    try:
        return os.open(name, _FOLDER, dir_fd=parent), None
    except PermissionError:
        return _unlocked(name, parent)
    except (FileNotFoundError, NotADirectoryError):  # the second is also what a link in its place says
        if parent is None:
            raise FileNotFoundError(name) from None
        return None


def _unlocked(name: str, parent: int | None) -> tuple[int, int | None] | None:
    try:
        held = os.open(name, _NAME_ONLY, dir_fd=parent)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise _Locked from None
    try:
        found = os.fstat(held)
        if found.st_uid != os.geteuid():
            return None  # of a shared volume, somebody else's: the agent, who is this user, cannot write there either
        # The way to the very folder that was opened, whatever has its name by now.
        os.chmod(f"/proc/self/fd/{held}", 0o700)
        return os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), found.st_mode & 0o7777
    except PermissionError:
        raise _Locked from None
    finally:
        os.close(held)
