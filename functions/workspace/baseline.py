"""Baseline of a workspace: its state before the agent ran, stored out of the agent's reach.

Git never reads the workspace. This module reads it (`walk`) and passes the contents to `git fast-import` in a private
bare repository, so whatever the agent puts into `.git/config`, `.gitattributes` or hooks has no effect. A table of
every file's stat data, in the order of the walk, lies beside it, so that a later comparison reads only changed files.
An agent can set mtime back but not ctime, so it cannot fool the table.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ocf.functions.workspace.errors import WorkspaceTooLarge
from ocf.functions.workspace.fast_import import FastImport
from ocf.functions.workspace.git import REPOSITORY, Git
from ocf.functions.workspace.safe_walk import Entry, Report, Walk, contents, key, open_file, walk

TABLE = "base.table"
BASE_REF = "refs/heads/base"
#: git knows the empty tree without storing it.
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
#: Overrides every `.gitattributes`: contents are bytes, and nothing converts or filters them.
ATTRIBUTES = "* -text -crlf !eol !diff !filter !ident !merge !working-tree-encoding\n"
_RECORD = struct.Struct("<IQqqQ20sBH")


@dataclass(frozen=True)
class Limits:
    """Limits of one workspace, in bytes, entries and seconds.

    Files over `patch_file_bytes` are not part of patches (git would hold them in memory several times); they are
    compared by their stat data and named in the result. `patch_bytes` limits all new contents of one patch. The paths
    of all changes, which a comparison holds in memory, have at most `changed_path_characters`.
    """

    max_bytes: int = 10 * 1024**3
    max_entries: int = 1_000_000
    patch_file_bytes: int = 64 * 1024**2
    patch_bytes: int = 1024**3
    git_seconds: float = 300.0
    changed_path_characters: int = 64 * 1024**2


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class BaselineEntry:
    """A file of the baseline. `sha1` is its git blob id; `large` files have none."""

    path: str
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sha1: bytes
    large: bool

    def same_stat(self, found: os.stat_result) -> bool:
        """Return whether the file is certainly unchanged."""
        return (self.mode, self.size, self.mtime_ns, self.ctime_ns, self.inode) == (
            found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino,
        )  # fmt: skip


def git_mode(mode: int) -> int:
    """Return git's mode of a file: link, executable or not."""
    if stat.S_ISLNK(mode):
        return 0o120000
    return 0o100755 if mode & stat.S_IXUSR else 0o100644


def create(git: Git) -> None:
    """Create an empty private repository by hand: a git process would cost more than the rest."""
    make_repository(git.home / REPOSITORY, bare=True)
    info = git.home / REPOSITORY / "info"
    info.mkdir()
    (info / "attributes").write_text(ATTRIBUTES)


def base_of(private: Path) -> str | None:
    """Return the baseline's ref, or None when the baseline has no files in git."""
    return BASE_REF if (private / REPOSITORY / BASE_REF).exists() else None


def make_repository(directory: Path, *, bare: bool) -> None:
    """Create what `git init` makes (gitrepository-layout(5)): HEAD, config, objects, refs."""
    for part in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
        (directory / part).mkdir(parents=True)
    (directory / "HEAD").write_text("ref: refs/heads/main\n")
    settings = ["repositoryformatversion = 0", "filemode = true", f"bare = {str(bare).lower()}"]
    settings += [] if bare else ["logallrefupdates = true"]
    (directory / "config").write_text("[core]\n" + "".join(f"\t{line}\n" for line in settings))


class Cursor:
    """Reads sorted records beside a walk in the same order, and reports records that the walk did not meet.

    `on_passed` is called for every record that was passed without `take`.
    """

    def __init__(
        self, records: Iterator[BaselineEntry], on_passed: Callable[[BaselineEntry], None] | None = None
    ) -> None:
        self._records = records
        self._on_passed = on_passed
        self._next = next(records, None)

    def has(self, path: str) -> bool:
        """Return whether there is a record of exactly `path`."""
        self._seek(path)
        return self._next is not None and self._next.path == path

    def below(self, path: str) -> bool:
        """Return whether there is a record of something inside `path`."""
        self._seek(path)
        if self._next is not None and self._next.path == path:
            # It was a file and is a directory now: pass its record; the next ones may lie below.
            self._advance()
        return self._next is not None and self._next.path.startswith(path + "/")

    def take(self, path: str) -> BaselineEntry | None:
        """Return the record of `path` and count it as met; None when there is none."""
        if not self.has(path):
            return None
        taken, self._next = self._next, next(self._records, None)
        return taken

    def leave(self, path: str) -> None:
        """Count the records at and below `path` as met."""
        self._seek(path)
        while self._next is not None and (self._next.path == path or self._next.path.startswith(path + "/")):
            self._next = next(self._records, None)

    def end(self) -> None:
        """Pass all remaining records."""
        while self._next is not None:
            self._advance()

    def _seek(self, path: str) -> None:
        wanted = key(path)
        while self._next is not None and key(self._next.path) < wanted:
            self._advance()

    def _advance(self) -> None:
        if self._on_passed and self._next is not None:
            self._on_passed(self._next)
        self._next = next(self._records, None)


def read_table(private: Path) -> Iterator[BaselineEntry]:
    """Yield the records of the baseline, in the order of the walk."""
    with (private / TABLE).open("rb", buffering=256 * 1024) as table:
        while head := table.read(_RECORD.size):
            mode, size, mtime, ctime, inode, sha1, large, length = _RECORD.unpack(head)
            yield BaselineEntry(os.fsdecode(table.read(length)), mode, size, mtime, ctime, inode, sha1, bool(large))


def read_blob(entry: Entry, importer: FastImport | None) -> tuple[bytes, int]:
    """Read a file or link once, as many bytes as it was listed with; return its git blob id and its mark.

    The mark is 0 without importer.

    Raises:
        OSError: removed, unreadable, or of another kind now.
    """
    if entry.kind == stat.S_IFLNK:
        target = os.fsencode(os.readlink(entry.name, dir_fd=entry.parent))
        return _feed(iter([target]), len(target), importer)
    fd = open_file(entry)
    try:
        return _feed(contents(entry, fd), entry.stat.st_size, importer)
    finally:
        os.close(fd)


def _feed(chunks: Iterator[bytes], size: int, importer: FastImport | None) -> tuple[bytes, int]:
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    mark = importer.begin_blob(size) if importer else 0
    for chunk in chunks:
        digest.update(chunk)
        if importer:
            importer.write(chunk)
    if importer:
        importer.end_blob()
    return digest.digest(), mark


@dataclass(frozen=True)
class Counted:
    """Files and bytes of a workspace, without `.git` and ignored files."""

    files: int
    size: int


def record(directory: Path, git: Git, limits: Limits, tracked: Cursor | None, stop: threading.Event) -> Counted:
    """Record the baseline of `directory` in `git.home`. `tracked` names files that count although they are ignored.

    Raises:
        WorkspaceTooLarge: more entries or bytes than `limits` allow.
        Stopped: cancelled.
    """
    report = Report()
    how = Walk(limits.max_entries, gitignore=True, git_directories=False, tracked=tracked, stop=stop, report=report)
    files = size = 0
    with FastImport(git) as importer, (git.home / TABLE).open("wb", buffering=256 * 1024) as table:
        for entry in walk(directory, how):
            if entry.kind == stat.S_IFDIR:
                continue
            files, size = files + 1, size + entry.stat.st_size
            if size > limits.max_bytes:
                raise WorkspaceTooLarge(f"the workspace has more than {limits.max_bytes} bytes")
            large = entry.stat.st_size > limits.patch_file_bytes
            found, sha1 = entry.stat, bytes(20)
            if not large:
                try:
                    sha1, _ = read_blob(entry, importer)
                except OSError:
                    # Unreadable, or (in a shared directory) removed meanwhile: not part of the baseline.
                    continue
            path = os.fsencode(entry.path)
            table.write(
                _RECORD.pack(
                    found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino,
                    sha1, large, len(path),
                ) + path
            )  # fmt: skip
        if report.truncated:
            raise WorkspaceTooLarge(f"the workspace has more than {limits.max_entries} entries")
        table.flush()
        if not importer.used:
            return Counted(files, size)  # an empty baseline needs no commit
        importer.begin_commit(BASE_REF)
        mark = 0
        for known in read_table(git.home):
            if not known.large:
                mark += 1
                importer.put(known.path, git_mode(known.mode), mark)
        importer.done()
    return Counted(files, size)
