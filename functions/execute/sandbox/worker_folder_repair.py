"""Folders that all executions of a worker depend on: checked before and after each, and repaired.

An agent that runs as this process's own user may change the mode of any folder of that user; the sandbox does not
forbid it (docs/explanation/security.md). Nothing here follows a link: every folder is opened by name below its parent.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ocf.events.errors import Unavailable

_NAME_ONLY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Depth below a folder of executions to which their folders are opened: the execution's, its workspace and home.
_DEPTH = 2
_OURS = stat.S_IRWXU


@dataclass(frozen=True)
class _Folder:
    path: Path
    identity: tuple[int, int]
    uid: int
    #: The required mode; None: any mode that lets this user work in it.
    mode: int | None


class Folders:
    """Creates the folders `own` if missing, with exactly `mode` where this user owns them.

    The top of a volume may be root's. Folders above must stay passable for this user.
    """

    def __init__(self, own: tuple[Path, ...], mode: int) -> None:
        self._own = own
        for path in own:
            path.mkdir(mode=mode, parents=True, exist_ok=True)
            if _ours(path):
                path.chmod(mode)
        above = {parent for path in own for parent in path.resolve().parents}
        self._folders = [_seen(path, None) for path in sorted(above)]
        self._folders += [_seen(path.resolve(), mode if _ours(path) else None) for path in own]

    def check(self) -> None:
        """Check that all folders exist, are unchanged and usable; restore their modes.

        Raises:
            Unavailable: a folder could not be repaired; the worker must not go on.
        """
        for folder in self._folders:  # parents first: without them the others cannot be reached
            _repair(folder)
        for path in self._own:
            _open_up(path.resolve(), _DEPTH)


def _ours(path: Path) -> bool:
    return path.stat().st_uid == os.geteuid()


def _seen(path: Path, mode: int | None) -> _Folder:
    found = os.lstat(path)
    return _Folder(path, (found.st_dev, found.st_ino), found.st_uid, mode)


def _repair(folder: _Folder) -> None:
    try:
        fd = os.open(folder.path, _NAME_ONLY)
    except OSError as error:
        raise Unavailable(f"the folder {folder.path} is gone or cannot be reached: {error.strerror}") from None
    try:
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != folder.identity:
            raise Unavailable(f"the folder {folder.path} was replaced since the start")
        if found.st_uid != folder.uid:
            raise Unavailable(f"the folder {folder.path} belongs to user {found.st_uid}, not {folder.uid} any more")
        wrong = folder.mode is not None and stat.S_IMODE(found.st_mode) != folder.mode
        if found.st_uid == os.geteuid() and (wrong or found.st_mode & _OURS != _OURS):
            # Changes the folder that was opened, whatever has its name by now.
            mode = folder.mode if folder.mode is not None else stat.S_IMODE(found.st_mode) | _OURS
            os.chmod(f"/proc/self/fd/{fd}", mode)
    except PermissionError as error:
        raise Unavailable(f"the folder {folder.path} cannot be repaired: {error.strerror}") from None
    finally:
        os.close(fd)


def _open_up(path: Path, depth: int) -> None:
    """Let this user into the folders of executions below `path`, which may appear and vanish meanwhile."""
    with suppress(FileNotFoundError, NotADirectoryError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _open_up_below(fd, depth)
        finally:
            os.close(fd)


def _open_up_below(parent: int, depth: int) -> None:
    for name in os.listdir(parent):
        with suppress(FileNotFoundError, NotADirectoryError):
            held = os.open(name, _NAME_ONLY, dir_fd=parent)
            try:
                found = os.fstat(held)
                if found.st_uid != os.geteuid():
                    continue
                if found.st_mode & _OURS != _OURS:
                    os.chmod(f"/proc/self/fd/{held}", stat.S_IMODE(found.st_mode) | _OURS)
                if depth > 1:
                    inside = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                    try:
                        _open_up_below(inside, depth - 1)
                    finally:
                        os.close(inside)
            finally:
                os.close(held)
