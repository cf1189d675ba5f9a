"""State of a running stack in its data directory: the lock it holds, and the file with its gateway and settings.

Light to import: every verb of the command line reads this before it calls a gateway.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Locked, with the pid in it, while a stack runs in the directory.
LOCK = "stack.lock"
#: A `Running` as JSON, written once everything is ready and removed at the end; stale after a SIGKILL.
STATE = "stack-state.json"


class AlreadyUp(Exception):
    """A stack runs in this data directory already."""


@dataclass(frozen=True)
class Running:
    """A running stack.

    Args:
        gateway: its URL.
        instance: random id of this start; the stack's own gateway returns it at /health.
        settings: the settings of its processes, by environment variable, secrets masked.
    """

    gateway: str
    instance: str
    settings: Mapping[str, Any]


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Lock the data directory; the lock ends with its holder, for whatever reason.

    Raises:
        AlreadyUp: a stack runs in it.
    """
    descriptor = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyUp(f"a stack runs in {data_dir} already (pid {running_pid(data_dir)})") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def running_pid(data_dir: Path) -> int | None:
    """Return the pid of the `ocf up` that holds this data directory, or None.

    Raises:
        OSError: unknown, because the directory belongs to another user.
    """
    try:
        descriptor = os.open(data_dir / LOCK, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(descriptor, 32, 0) or b"0") or None
    finally:
        os.close(descriptor)
    return None


def running(data_dir: Path) -> Running | None:
    """Return the stack of this data directory; None when none runs, or it is not ready yet (`running_pid`).

    Raises:
        OSError: as `running_pid`.
    """
    if running_pid(data_dir) is None:
        return None
    try:
        found = json.loads((data_dir / STATE).read_text())
    except FileNotFoundError:
        return None
    return Running(found["gateway"], found["instance"], found["settings"])
