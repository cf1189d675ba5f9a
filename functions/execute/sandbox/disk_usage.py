"""Disk usage of an agent, including paths too long to open, locked folders, and files that are only names.

So nothing here goes by a path or needs memory for what it has seen: every open is relative to a descriptor and never
follows a link, and a scan ends as soon as a limit is exceeded.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

#: Files and folders of one execution; some file systems have few inodes to give.
MAX_ENTRIES = 1_000_000
#: Minimum bytes of an entry: its inode, its name.
_ENTRY_BYTES = 512
#: Folders of one branch that stay open; those above are found again by `..`.
_OPEN = 64
_TRIES = 3
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: What the owner of a folder needs to look at its entries.
_LOOK = stat.S_IRUSR | stat.S_IXUSR
_NAME_ONLY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Moved(Exception):
    """A branch is not where it was when the scan entered it."""


class _Locked(Exception):
    """A folder owned by the agent does not open."""


class _LimitReached(Exception):
    """A limit is exceeded."""


@dataclass
class _Folder:
    fd: int
    names: list[str]
    identity: tuple[int, int]
    #: The mode to restore.
    mode: int | None = None


@dataclass
class DiskUsageScan:
    """A scan of some trees; `size` in bytes on disk."""

    limit: int
    size: int = 0
    entries: int = 0
    hidden: bool = False
    _branch: list[_Folder] = field(default_factory=list)

    @property
    def over(self) -> str | None:
        """Return which limit is exceeded, as a message; None when none is."""
        if self.entries > MAX_ENTRIES:
            return f"the workspace has more than {MAX_ENTRIES} files and folders"
        if self.size > self.limit:
            return f"the workspace is larger than {self.limit} bytes"
        return "the workspace has folders that cannot be opened" if self.hidden else None

    def scan(self, root: Path) -> None:
        """Count what is below `root`; stop once a limit is exceeded."""
        before = (self.size, self.entries)
        for _ in range(_TRIES):
            self.size, self.entries = before
            try:
                self._walk(root)
                return
            except _LimitReached:
                return
            except FileNotFoundError:
                return  # missing or removed
            except (_Moved, _Locked):
                continue  # it changes during the scan
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
        with os.scandir(fd) as entries:
            for entry in entries:
                self._count(entry)
        # A folder without folders is left at once, so its `..` is not needed; one without x has none.
        if self._branch[-1].names and len(self._branch) > _OPEN:
            self._leave(self._branch[-_OPEN - 1])

    def _count(self, entry: os.DirEntry[str]) -> None:
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return  # removed between listing and stat
        except PermissionError:
            if os.fstat(self._branch[-1].fd).st_uid != os.geteuid():
                return  # as in `_unlocked`
            raise _Locked from None  # locked again since it was opened
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
            with suppress(OSError):  # the folder may be gone
                os.fchmod(folder.fd, folder.mode)
        os.close(folder.fd)
        folder.fd = -1


def _opened(name: str, parent: int | None) -> tuple[int, int | None] | None:
    """Open a folder; return its descriptor and the mode to restore if it was unlocked; None where there is none.

    Raises:
        _Locked: the agent owns it and it stays locked.
    """
    try:
        fd = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        return _unlocked(name, parent)
    except (FileNotFoundError, NotADirectoryError):  # a link gives the second error
        if parent is None:
            raise FileNotFoundError(name) from None
        return None
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or found.st_mode & _LOOK == _LOOK:
        return fd, None
    # It lists its names, but lets nobody look at what they name.
    os.fchmod(fd, 0o700)
    return fd, stat.S_IMODE(found.st_mode)


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
            # another user's file of a shared volume: the agent, which is this user, cannot write there either
            return None
        # Changes the folder that was opened, whatever has its name by now.
        os.chmod(f"/proc/self/fd/{held}", 0o700)
        return os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), stat.S_IMODE(
            found.st_mode
        )
    except PermissionError:
        raise _Locked from None
    finally:
        os.close(held)
