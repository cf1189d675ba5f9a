"""Directories of this machine that a task may name: below a root of the operator's, and not this system's own.

This system's own are the data of the stack and the folders of running executions. They are known by identity (device
and inode), not by name, so that neither a link nor a bind mount leads to them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ocf.functions.workspace.errors import InvalidWorkspace

Identity = tuple[int, int]
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True)
class Roots:
    """Allowed and private directories.

    `allowed` is WORKSPACE_SOURCES. `private` directories and those below are never read. `shared` (WORKSPACE_DIR) may
    lie in a private one. A directory that contains a private one is read without it.
    """

    allowed: tuple[Path, ...] = ()
    private: tuple[Path, ...] = ()
    shared: Path | None = None

    def __bool__(self) -> bool:
        """Return whether any directory is allowed."""
        return bool(self.allowed)

    def find(self, path: str) -> Path:
        """Return the directory at `path`, with links resolved.

        Raises:
            InvalidWorkspace: it is not a directory, not below a root, or private.
        """
        try:
            resolved = Path(path).resolve(strict=True)
        except (OSError, RuntimeError):
            raise InvalidWorkspace(f"directory {path!r} does not exist") from None
        if not any(resolved.is_relative_to(root.resolve()) for root in self.allowed):
            allowed = ", ".join(map(str, self.allowed)) or "none is allowed"
            raise InvalidWorkspace(f"directory {path!r} is not below an allowed root (WORKSPACE_SOURCES: {allowed})")
        if not resolved.is_dir():
            raise InvalidWorkspace(f"{path!r} is not a directory")
        try:
            fd = os.open(resolved, _OPEN | os.O_NOFOLLOW)
        except OSError as error:
            raise InvalidWorkspace(f"directory {path!r} cannot be opened: {error.strerror}") from None
        try:
            self.admit(fd)
        finally:
            os.close(fd)
        return resolved

    def admit(self, fd: int) -> None:
        """Check an open directory and its parents: they may have changed since the path was checked.

        Raises:
            InvalidWorkspace: it is private, or no longer below a root.
        """
        allowed, private = _identities(self.allowed), self.hidden()
        shared = _identities((self.shared,)) if self.shared is not None else frozenset[Identity]()
        below = False
        for found in _upwards(fd):
            if found in private:
                raise InvalidWorkspace("the directory belongs to this system and cannot be the source of a workspace")
            below = below or found in allowed
            if below and found in shared:
                return
        if not below:
            raise InvalidWorkspace("the directory is not below an allowed root (WORKSPACE_SOURCES)")

    def hidden(self) -> frozenset[Identity]:
        """Return the identities of the existing private directories."""
        return _identities(self.private)


def _identities(paths: tuple[Path, ...]) -> frozenset[Identity]:
    found = set[Identity]()
    for path in paths:
        with suppress(OSError):  # a missing path has no identity, and cannot be named
            status = path.stat()
            found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def _upwards(fd: int) -> Iterator[Identity]:
    """Yield the identities of an open directory and all above it, up to the root."""
    here = os.dup(fd)
    try:
        before: Identity | None = None
        while True:
            status = os.fstat(here)
            identity = (status.st_dev, status.st_ino)
            if identity == before:
                return  # the root is its own parent
            yield identity
            before = identity
            above = os.open("..", _OPEN, dir_fd=here)
            os.close(here)
            here = above
    finally:
        os.close(here)
