"""State folders of workers: locked by a live worker; those of dead workers are removed."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog

from ocf.functions.workspace import discard_tree

log = structlog.get_logger()

#: Names of workers' folders: of executions, of warm servers, and, below a parent, one per worker process.
_OURS = re.compile(r"slots|worker-(?P<pid>\d+)|([A-Za-z0-9_-]{1,128}\.)?[0-9a-f-]{36}")
#: Seconds within which a worker locks a folder that it has created.
_NEW = 60.0


@asynccontextmanager
async def locked(folder: Path) -> AsyncIterator[list[Path]]:
    """Create and lock a folder; yield the leftovers of dead processes in it and, below a parent, beside it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield _leftovers(folder)
    finally:
        if is_worker_folder(folder):
            await discard_tree(folder)
        os.close(descriptor)


async def remove_leftovers(leftovers: list[Path]) -> None:
    """Remove leftovers, which may take long."""
    for path in leftovers:
        log.info("leftover removed", action="worker.leftover_removed", path=path.name)
        await discard_tree(path)


def is_worker_folder(folder: Path) -> bool:
    """Return whether a folder is one of several in the state folder of a parent."""
    return folder.name.startswith("worker-")


def _leftovers(folder: Path) -> list[Path]:
    found = [path for path in _ours(folder) if path.name != "slots"]
    with suppress(FileNotFoundError):
        found += (folder / "slots").iterdir()
    if is_worker_folder(folder):
        found += [path for path in _ours(folder.parent) if path != folder and not _alive(path)]
    return found


def _ours(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if _OURS.fullmatch(path.name) and path.is_dir() and not path.is_symlink()]


def _alive(path: Path) -> bool:
    """Return whether the worker of a folder lives: it has locked the folder, or is about to."""
    named = _OURS.fullmatch(path.name)
    pid = int(named["pid"] or 0) if named else 0
    if pid and Path(f"/proc/{pid}").exists() and time.time() - path.stat().st_mtime < _NEW:
        return True
    with suppress(OSError):
        path.chmod(0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
