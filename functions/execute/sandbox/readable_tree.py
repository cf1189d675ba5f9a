"""Makes what an agent left readable: its folders and files may lack any permission bit.

A change of a mode is also one of the ctime, by which a diff knows a file, so only what lacks the bits is changed. Every
open is relative to a descriptor and follows no link. Standard library only, as `agent_host_server`, which uses it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

TYPE_CHECKING = False  # as in supervisor.py
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Deeper folders are left as they are: no walk of a workspace enters them.
_DEPTH = 256
_NAME_ONLY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def make_readable(root: Path, bits: int) -> None:
    """Add `bits` to the mode of each file and folder of this user in `root`, and folders' x bits; what fails is left.

    Args:
        root: a folder in which nobody works any more.
        bits: the readers, as in 0o440.
    """
    open_: list[tuple[int, Iterator[str]]] = []
    try:
        _enter(open_, str(root), None, bits)
        while open_:
            fd, names = open_[-1]
            name = next(names, None)
            if name is None:
                os.close(open_.pop()[0])
                continue
            with suppress(OSError):  # the walk that follows names what cannot be read
                _enter(open_, name, fd, bits)
    finally:
        for fd, _ in open_:
            os.close(fd)


def _enter(open_: list[tuple[int, Iterator[str]]], name: str, parent: int | None, bits: int) -> None:
    """Repair one entry; a folder is added to `open_`."""
    held = os.open(name, _NAME_ONLY, dir_fd=parent)
    try:
        found = os.fstat(held)
        folder = stat.S_ISDIR(found.st_mode)
        mode = stat.S_IMODE(found.st_mode)
        wanted = mode | bits | (bits >> 2 if folder else 0)
        # Changes what was opened, whatever has its name by now.
        path = f"/proc/self/fd/{held}"
        if wanted != mode and found.st_uid == os.geteuid() and (folder or stat.S_ISREG(found.st_mode)):
            os.chmod(path, wanted)
        if folder and len(open_) < _DEPTH:
            fd = os.open(path, _FOLDER)
            open_.append((fd, iter(())))
            open_[-1] = (fd, iter(os.listdir(fd)))
    finally:
        os.close(held)
