"""Builder of a directory tree from untrusted entries, in a place of our own.

Everything is created relative to descriptors of directories that this builder made, never through a link. Links are
created last, so that no entry can be written through one, and must stay inside. Directories' modes are also set last,
because they might forbid later writes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import structlog

from ocf.functions.workspace.errors import InvalidWorkspace
from ocf.functions.workspace.safe_walk import MAX_DEPTH, MAX_PATH_BYTES

log = structlog.get_logger()

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Nothing of the function's environment, which holds the real keys.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def safe_parts(path: str) -> list[str]:
    """Return the components of a relative path.

    Raises:
        InvalidWorkspace: absolute, empty, too long or too deep, or with an empty, `.` or `..` component or a NUL.
    """
    parts = path.split("/")
    if len(parts) > MAX_DEPTH + 1 or len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise InvalidWorkspace(f"a path is deeper than {MAX_DEPTH} directories or longer than {MAX_PATH_BYTES} bytes")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise InvalidWorkspace(f"path {path!r} is not plainly relative; it must have no empty, '.' or '..' component")
    return parts


def escapes(path: str, target: str) -> bool:
    """Return whether a link at `path` with this target leaves the tree, judged by the text alone."""
    if target.startswith("/"):
        return True
    depth = path.count("/")
    for part in target.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return True
    return False


def first_escaping_link(root: Path, links: Iterable[str]) -> str | None:
    """Return the first link of an existing tree that leads out of it, also by way of other links."""
    real = os.path.realpath(root)
    for link in links:
        path = os.path.join(real, link)
        if escapes(link, os.readlink(path)):
            return link
        reached = os.path.realpath(path)
        if reached != real and not reached.startswith(real + "/"):
            return link
    return None


class TreeBuilder:
    """A tree under construction below `root`, which must be an empty directory. Always close it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: list[tuple[str, int]] = [("", os.open(root, _OPEN_DIRECTORY))]
        self._modes: list[tuple[str, int]] = []
        self._links: list[tuple[str, str]] = []

    def close(self) -> None:
        """Close the descriptors."""
        while self._open:
            os.close(self._open.pop()[1])

    def directory(self, path: str, mode: int) -> None:
        """Create a directory; `finish` sets its mode.

        Raises:
            InvalidWorkspace: the path is unsafe, exists already, or its parent does not exist.
        """
        parts = safe_parts(path)
        try:
            os.mkdir(parts[-1], 0o700, dir_fd=self._parent(parts))
        except FileExistsError:
            raise _duplicate(path) from None
        if mode & 0o777 != 0o700:
            self._modes.append((path, mode & 0o777))

    def file(self, path: str) -> int:
        """Create a file and return its descriptor, which the caller fills, passes to `seal` and closes.

        Raises as `directory`.
        """
        parts = safe_parts(path)
        try:
            return os.open(parts[-1], _CREATE, 0o600, dir_fd=self._parent(parts))
        except FileExistsError:
            raise _duplicate(path) from None

    def seal(self, fd: int, mode: int, mtime_ns: int) -> None:
        """Give a written file its mode (without set-id bits) and time."""
        os.fchmod(fd, mode & 0o777)
        os.utime(fd, ns=(mtime_ns, mtime_ns))

    def link(self, path: str, target: str) -> None:
        """Register a symbolic link, created by `finish`.

        Raises:
            InvalidWorkspace: it leads out of the tree.
        """
        safe_parts(path)
        if escapes(path, target):
            raise link_outside(path, target)
        self._links.append((path, target))

    def finish(self) -> None:
        """Create the links, check their targets, set the directories' modes.

        Raises:
            InvalidWorkspace: a link leads out of the tree by way of others, or its path exists already.
        """
        for path, target in self._links:
            parts = safe_parts(path)
            try:
                os.symlink(target, parts[-1], dir_fd=self._parent(parts))
            except FileExistsError:
                raise _duplicate(path) from None
        wrong = first_escaping_link(self._root, (path for path, _ in self._links))
        if wrong is not None:
            raise link_outside(wrong, dict(self._links)[wrong])
        # Children before parents: a parent's mode may lock them away.
        for path, mode in reversed(self._modes):
            parts = safe_parts(path)
            fd = os.open(parts[-1], _OPEN_DIRECTORY, dir_fd=self._parent(parts))
            try:
                os.fchmod(fd, mode)
            finally:
                os.close(fd)

    def _parent(self, parts: list[str]) -> int:
        wanted = parts[:-1]
        same = 0
        while same < min(len(wanted), len(self._open) - 1) and self._open[same + 1][0] == wanted[same]:
            same += 1
        while len(self._open) > same + 1:
            os.close(self._open.pop()[1])
        for name in wanted[same:]:
            try:
                self._open.append((name, os.open(name, _OPEN_DIRECTORY, dir_fd=self._open[-1][1])))
            except OSError:
                raise InvalidWorkspace(f"{'/'.join(parts)!r}: its parent directory does not exist") from None
        return self._open[-1][1]


def link_outside(path: str, target: str) -> InvalidWorkspace:
    """Return the error for a link that leaves the tree."""
    return InvalidWorkspace(
        f"link {path!r} leads out of the workspace (to {target!r}); make it relative to something inside, or remove it"
    )


def _duplicate(path: str) -> InvalidWorkspace:
    return InvalidWorkspace(f"{path!r} exists twice (on this file system names that differ only in case are equal)")


def move_over(source: Path, target: Path) -> None:
    """Move the contents of `source` over those of `target`: folders are merged, anything else replaces what is there.

    Nothing else may change `target` meanwhile. Links are not followed, and a `.git` stays where it is.
    """
    waiting = [(source, target)]
    while waiting:
        folder, into = waiting.pop()
        for name in os.listdir(folder):
            entry, place = folder / name, into / name
            if name == ".git":
                continue
            if place.is_dir() and not place.is_symlink():
                if entry.is_dir() and not entry.is_symlink():
                    waiting.append((entry, place))
                    continue
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
            shutil.move(entry, place)  # one rename within a file system


async def remove_tree(path: Path) -> None:
    """Remove `path`: links are not followed, locked directories are opened, any depth is reached.

    Raises:
        OSError: something is left.
    """
    # rm and chmod -R of coreutils walk with descriptors and never follow a link; unlike shutil.rmtree they have no
    # recursion limit that a hostile depth could reach.
    for command in (["rm", "-rf", "--", str(path)], ["chmod", "-R", "u+rwX", "--", str(path)]) * 2:
        if not await asyncio.to_thread(os.path.lexists, path):
            return
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL, env=_ENVIRONMENT,
        )  # fmt: skip
        await process.wait()
    if await asyncio.to_thread(os.path.lexists, path):
        raise OSError(f"{path} could not be removed whole")


async def discard_tree(path: Path) -> None:
    """Call `remove_tree`; a failure is logged and does not raise."""
    try:
        with suppress(OSError, RecursionError):  # `remove_tree` handles the difficult cases
            await asyncio.to_thread(shutil.rmtree, path)
        await remove_tree(path)
    except OSError as error:
        log.warning("files left behind", action="workspace.not_removed", path=str(path), reason=str(error))
