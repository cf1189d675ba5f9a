"""Walk of a directory that may be hostile and may change meanwhile: never through a link, never without end.

Every open is relative to the directory's descriptor and refuses links (`openat`, O_NOFOLLOW), so nothing that an agent
plants or swaps leads out of the tree. The order is that of `key`: names sorted, a directory before its contents.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

from ocf.functions.workspace.gitignore import MAX_FILE_BYTES, RuleBudget, Rules, excluded

#: Deeper directories and longer paths are skipped, and named in the report: no tool could unpack them.
MAX_DEPTH = 200
MAX_PATH_BYTES = 3_800
_CHUNK = 1024 * 1024
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Non-blocking, because the file may have become a fifo since it was listed.
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Stopped(Exception):
    """The work was cancelled."""


class Tracked(Protocol):
    """Files to keep although they are ignored. Called in the order of the walk."""

    def has(self, path: str) -> bool:
        """Return whether `path` is tracked."""

    def below(self, path: str) -> bool:
        """Return whether something below `path` is tracked."""

    def leave(self, path: str) -> None:
        """Note that `path` is there, but nobody can tell what is at and below it."""


@dataclass(slots=True)
class Entry:
    """One entry. `parent` is a descriptor of its directory, open until the next entry is requested."""

    path: str
    name: str
    parent: int
    stat: os.stat_result

    @property
    def kind(self) -> int:
        """Return `stat.S_IFMT` of its mode."""
        return stat.S_IFMT(self.stat.st_mode)


@dataclass
class Report:
    """Skipped paths and the reasons, the first hundred of them; `truncated` when the walk ended early.

    `unapplied` are the first ten files of ignore rules that are too many.
    """

    unapplied: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    skipped_count: int = 0
    truncated: bool = False

    def skip(self, path: str, why: str) -> None:
        """Note that `path` was left out."""
        self.skipped_count += 1
        if len(self.skipped) < 100:
            self.skipped.append((path, why))


@dataclass(frozen=True)
class Walk:
    """Options of a walk.

    `gitignore` leaves out ignored files that are not `tracked`; `git_directories` enters `.git` whole. `admit` checks
    the open root and may raise; directories of `hidden` (device, inode) are left out.
    """

    max_entries: int
    gitignore: bool = False
    git_directories: bool = True
    tracked: Tracked | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    report: Report = field(default_factory=Report)
    admit: Callable[[int], None] | None = None
    hidden: frozenset[tuple[int, int]] = frozenset()
    rules: RuleBudget = field(default_factory=RuleBudget)


@dataclass(slots=True)
class _Frame:
    fd: int
    path: str
    parts: tuple[bytes, ...]
    names: Iterator[os.DirEntry[str]]
    rules: tuple[Rules, ...] | None
    only_tracked: bool


def key(path: str) -> list[str]:
    """Return the sort key of the walk's order."""
    return path.split("/")


def walk(root: Path, how: Walk) -> Iterator[Entry]:
    """Yield every entry below `root`, without the root itself.

    Raises:
        Stopped: `how.stop` was set.
        OSError: the root cannot be opened, or is a link.
    """
    rules: tuple[Rules, ...] | None = None
    if how.gitignore:
        text = read_below(root, (".git", "info"), "exclude", MAX_FILE_BYTES)
        rules = _joined((), text, 0, ".git/info/exclude", how)
    fd = os.open(root, _OPEN_DIRECTORY)
    try:
        if how.admit is not None:
            how.admit(fd)
    except BaseException:
        os.close(fd)
        raise
    frames = [_frame(fd, "", (), rules, how)]
    count = 0
    try:
        while frames:
            frame = frames[-1]
            found = next(frame.names, None)
            if found is None:
                os.close(frames.pop().fd)
                continue
            if how.stop.is_set():
                raise Stopped
            count += 1
            if count > how.max_entries:
                how.report.truncated = True
                return
            entry = _entry(frame, found, how)
            if entry is None:
                continue
            if entry.kind != stat.S_IFDIR:
                if _wanted(frame, entry, how):
                    yield entry
                continue
            below = _descend(frame, entry, how)
            if below is not None and (entry.stat.st_dev, entry.stat.st_ino) not in how.hidden:
                yield entry
                below = _enter(below, entry, how)
                if below is not None:
                    frames.append(below)
    finally:
        for frame in frames:
            os.close(frame.fd)


def open_file(entry: Entry) -> int:
    """Open a listed regular file; return its descriptor.

    Raises:
        OSError: it is gone, unreadable, or not a regular file any more.
    """
    fd = os.open(entry.name, _OPEN_FILE, dir_fd=entry.parent)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{entry.path!r} is not a regular file any more")
    return fd


def contents(entry: Entry, fd: int) -> Iterator[bytes]:
    """Yield exactly as many bytes of the opened file as it had when it was listed, with zeros for missing ones.

    It may be written meanwhile, and even grow by terabytes that no limit has seen.
    """
    left = entry.stat.st_size
    while left > 0:
        data = os.read(fd, min(left, _CHUNK)) or bytes(min(left, _CHUNK))
        left -= len(data)
        yield data


def _entry(frame: _Frame, found: os.DirEntry[str], how: Walk) -> Entry | None:
    path = f"{frame.path}/{found.name}" if frame.path else found.name
    try:
        entry = Entry(path, found.name, frame.fd, found.stat(follow_symlinks=False))
    except FileNotFoundError:
        return None  # removed since it was listed
    except OSError as error:
        _leave(path, error, how)
        return None
    if len(path) * 4 > MAX_PATH_BYTES and len(os.fsencode(path)) > MAX_PATH_BYTES:
        how.report.skip(path[:200], f"its path is longer than {MAX_PATH_BYTES} bytes")
        return None
    if not (stat.S_ISREG(entry.stat.st_mode) or stat.S_ISDIR(entry.stat.st_mode) or stat.S_ISLNK(entry.stat.st_mode)):
        how.report.skip(path, "it is neither file, directory nor link")
        return None
    return entry


def _leave(path: str, error: OSError, how: Walk) -> None:
    how.report.skip(path, error.strerror or "it cannot be opened")
    if how.tracked is not None:
        how.tracked.leave(path)


def _wanted(frame: _Frame, entry: Entry, how: Walk) -> bool:
    if not how.git_directories and entry.name.lower() == ".git":
        return False
    if frame.only_tracked or (frame.rules and excluded(frame.rules, _parts(frame, entry), False)):
        return how.tracked is not None and how.tracked.has(entry.path)
    return True


def _descend(frame: _Frame, entry: Entry, how: Walk) -> _Frame | None:
    """Return a frame for the directory, not opened yet; None when it is left out."""
    is_git = entry.name.lower() == ".git"
    if is_git and not how.git_directories:
        return None
    if len(frame.parts) >= MAX_DEPTH:
        how.report.skip(entry.path, f"it is deeper than {MAX_DEPTH} directories")
        return None
    parts, only_tracked = _parts(frame, entry), frame.only_tracked
    if frame.rules is not None and not is_git and (only_tracked or excluded(frame.rules, parts, True)):
        # As in git: nothing below an ignored directory is included again, except tracked files.
        only_tracked = True
        if how.tracked is None or not how.tracked.below(entry.path):
            return None
    return _Frame(-1, entry.path, parts, iter(()), None if is_git else frame.rules, only_tracked and not is_git)


def _enter(frame: _Frame, entry: Entry, how: Walk) -> _Frame | None:
    try:
        fd = os.open(entry.name, _OPEN_DIRECTORY, dir_fd=entry.parent)
    except FileNotFoundError:
        return None
    except OSError as error:
        _leave(entry.path, error, how)
        return None
    if how.hidden:
        opened = os.fstat(fd)
        if (opened.st_dev, opened.st_ino) in how.hidden:
            os.close(fd)
            return None
    return _frame(fd, frame.path, frame.parts, frame.rules, how, frame.only_tracked)


def _frame(
    fd: int,
    path: str,
    parts: tuple[bytes, ...],
    rules: tuple[Rules, ...] | None,
    how: Walk,
    only_tracked: bool = False,
) -> _Frame:
    try:
        with os.scandir(fd) as entries:
            names = sorted(islice(entries, how.max_entries + 1), key=lambda entry: entry.name)
        if rules is not None and (text := _read_small(".gitignore", fd)):
            rules = _joined(rules, text, len(parts), f"{path}/.gitignore" if path else ".gitignore", how)
    except BaseException:
        os.close(fd)
        raise
    return _Frame(fd, path, parts, iter(names), rules, only_tracked)


def _parts(frame: _Frame, entry: Entry) -> tuple[bytes, ...]:
    return (*frame.parts, os.fsencode(entry.name))


def _joined(above: tuple[Rules, ...], text: bytes | None, depth: int, path: str, how: Walk) -> tuple[Rules, ...]:
    """Return the rules `above` and those of a file, unless they are too many together."""
    rules = how.rules.parse(text or b"", depth, above)
    if rules is not None:
        return (*above, rules)
    if len(how.report.unapplied) < 10:
        how.report.unapplied.append(path)
    return above


def read_below(root: Path, directories: tuple[str, ...], name: str, limit: int) -> bytes | None:
    """Read a small file some directories below `root`; None when it is missing or a component is a link."""
    fds: list[int] = []
    try:
        fds.append(os.open(root, _OPEN_DIRECTORY))
        for directory in directories:
            fds.append(os.open(directory, _OPEN_DIRECTORY, dir_fd=fds[-1]))
        return _read_small(name, fds[-1], limit)
    except OSError:
        return None
    finally:
        for fd in fds:
            os.close(fd)


def _read_small(name: str, parent: int, limit: int = MAX_FILE_BYTES) -> bytes | None:
    try:
        fd = os.open(name, _OPEN_FILE, dir_fd=parent)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        # A larger file is not a plausible list of patterns.
        return file.read(limit) if stat.S_ISREG(found.st_mode) and found.st_size <= limit else None
