"""Archive `workspace.tar.zst`: packs a workspace that may be hostile.

GNU tar format (any tar reads it), entries in the order of the walk, no owner names, times in seconds: the same tree
gives the same bytes. Memory stays flat: one block of 1 MiB and zstd's own window.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tarfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zstandard

from ocf.functions.workspace.baseline import BaselineEntry, Cursor, Limits, git_mode, read_blob, read_table
from ocf.functions.workspace.errors import WorkspaceTooLarge
from ocf.functions.workspace.safe_tree import escapes
from ocf.functions.workspace.safe_walk import Entry, Stopped, Walk, contents, open_file, walk

CHUNK = 1024 * 1024
BLOCK = tarfile.BLOCKSIZE
#: zstd level 1 is as fast as the disk here and within 10% of level 3 on source code.
_LEVEL = 1
_THREADS = 2
MAX_TIME = 2**33
#: What git writes differently in each clone of the same commit. OpenCode notes its id of the repository at its first
#: look, maybe while the files are packed.
_OF_ONE_CLONE = (".git/index", ".git/FETCH_HEAD", ".git/ORIG_HEAD", ".git/logs/", ".git/objects/", ".git/opencode")


@dataclass(frozen=True)
class Packed:
    """Contents of an archive: files and links, their bytes, the archive's own size; skipped paths and the reasons.

    `unapplied` are the first files with more ignore rules than are applied.
    """

    files: int
    content_bytes: int
    size: int
    skipped: list[tuple[str, str]]
    skipped_count: int
    unapplied: list[str]


class TreeDigest:
    """SHA-256 of the entries of an archive, while they are written or read: kinds, modes, paths, contents; no times.

    With `clone` without what git writes differently in each clone; a commit's id stands for it.
    """

    def __init__(self, *, clone: bool = False) -> None:
        self._digest = hashlib.sha256(b"clone\n" if clone else b"tree\n")
        self._clone = clone
        self._counts = True

    def entry(self, info: tarfile.TarInfo) -> None:
        """Add an entry; its content follows."""
        self._counts = not (self._clone and info.name.startswith(_OF_ONE_CLONE))
        if self._counts:
            name = info.name.removesuffix("/")  # of directories with long names only, in an archive
            about = [info.type.decode("latin-1"), info.mode, name, info.linkname, info.size]
            self._digest.update(json.dumps(about).encode() + b"\n")

    def content(self, data: bytes) -> None:
        """Add a piece of the last entry's content."""
        if self._counts:
            self._digest.update(data)

    def hexdigest(self) -> str:
        """Return the digest of what was added."""
        return self._digest.hexdigest()


def pack_tree(
    directory: Path,
    base: Path | None,
    archive: Path,
    limits: Limits,
    stop: threading.Event,
    digest: TreeDigest | None = None,
) -> Packed:
    """Write `archive` from `directory`; `digest` gets what is written.

    With `base` (a private directory) files that `.gitignore` excludes are left out, unless the base has them; without
    it, everything goes in. `.git` always goes in whole. Links that lead out of the tree, fifos, sockets, devices and
    unreadable files are left out and reported.

    Raises:
        WorkspaceTooLarge: over `limits`; the archive is then incomplete.
        Stopped: cancelled.
    """
    tracked = Cursor(read_table(base)) if base else None
    how = Walk(limits.max_entries, gitignore=base is not None, tracked=tracked, stop=stop)
    return _pack(directory, how, archive, limits, lambda _: True, digest)


def pack_layer(directory: Path, base: Path, archive: Path, limits: Limits, stop: threading.Event) -> Packed | None:
    """Write `archive` with the folders of `directory` and the files that the baseline in `base` lacks or has otherwise.

    `.git` is left out. Returns None, without an archive, when files of the baseline are missing: a layer cannot express
    that. Raises as `pack_tree`.
    """
    missing: list[BaselineEntry] = []
    known = Cursor(read_table(base), missing.append)

    def changed(entry: Entry) -> bool:
        before = known.take(entry.path)
        if before is None or before.same_stat(entry.stat):
            return before is None
        if before.large or before.size != entry.stat.st_size or git_mode(before.mode) != git_mode(entry.stat.st_mode):
            return True
        try:
            # A change of owner or group changes the ctime of every file.
            return read_blob(entry, None)[0] != before.sha1
        except OSError:
            return True

    packed = _pack(directory, Walk(limits.max_entries, git_directories=False, stop=stop), archive, limits, changed)
    known.end()
    if missing:
        archive.unlink()
        return None
    return packed


def _pack(
    directory: Path,
    how: Walk,
    archive: Path,
    limits: Limits,
    wanted: Callable[[Entry], bool],
    digest: TreeDigest | None = None,
) -> Packed:
    report, real = how.report, os.path.realpath(directory)
    files = size = 0
    compressor = zstandard.ZstdCompressor(level=_LEVEL, threads=_THREADS, write_checksum=True)
    with archive.open("xb") as file, compressor.stream_writer(file, write_size=CHUNK, closefd=False) as sink:
        out = _Out(sink.write, digest)
        for entry in walk(directory, how):
            if entry.kind == stat.S_IFDIR:
                out.entry(_header(entry, tarfile.DIRTYPE))
                continue
            if not wanted(entry):
                continue
            size += entry.stat.st_size
            if size > limits.max_bytes:
                raise WorkspaceTooLarge(f"the workspace has more than {limits.max_bytes} bytes")
            if _pack_one(entry, real, out, how):
                files += 1
        if report.truncated:
            raise WorkspaceTooLarge(f"the workspace has more than {limits.max_entries} entries")
        out.write(bytes(2 * BLOCK))
        out.flush()
    return Packed(files, size, archive.stat().st_size, report.skipped, report.skipped_count, report.unapplied)


class _Out:
    """Collects small writes: a call into zstd costs more than a header."""

    def __init__(self, sink: Callable[[bytes], int], digest: TreeDigest | None) -> None:
        self._sink = sink
        self._digest = digest
        self._waiting = bytearray()

    def entry(self, info: tarfile.TarInfo) -> None:
        """Write the header of an entry."""
        if self._digest is not None:
            self._digest.entry(info)
        self.write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))

    def content(self, data: bytes) -> None:
        """Write a piece of an entry's content."""
        if self._digest is not None:
            self._digest.content(data)
        self.write(data)

    def write(self, data: bytes) -> None:
        """Write `data`, buffered when small."""
        if len(data) >= CHUNK // 2:
            self.flush()
            self._sink(data)
            return
        self._waiting += data
        if len(self._waiting) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write the buffered bytes."""
        if self._waiting:
            self._sink(bytes(self._waiting))
            self._waiting.clear()


def leads_out(real: str, path: str, target: str) -> bool:
    """Return whether the link at `path` of the workspace `real` leads out of it, also by other links on its way."""
    reached = os.path.realpath(os.path.join(real, path))
    return escapes(path, target) or not (reached == real or reached.startswith(real + "/"))


def _pack_one(entry: Entry, real: str, out: _Out, how: Walk) -> bool:
    try:
        if entry.kind == stat.S_IFLNK:
            target = os.readlink(entry.name, dir_fd=entry.parent)
            if leads_out(real, entry.path, target):
                how.report.skip(entry.path, "it is a link that leads out of the workspace")
                return False
            out.entry(_header(entry, tarfile.SYMTYPE, target))
            return True
        fd = open_file(entry)
    except OSError as error:
        how.report.skip(entry.path, error.strerror or "it changed its kind")
        return False
    try:
        out.entry(_header(entry, tarfile.REGTYPE))
        for data in contents(entry, fd):
            if how.stop.is_set():
                raise Stopped
            out.content(data)
        out.write(bytes(-entry.stat.st_size % BLOCK))
    finally:
        os.close(fd)
    return True


def _header(entry: Entry, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info, found = tarfile.TarInfo(entry.path), entry.stat
    info.type, info.linkname = kind, target
    info.mode = stat.S_IMODE(found.st_mode) & 0o777
    info.size = found.st_size if kind == tarfile.REGTYPE else 0
    info.mtime = min(max(int(found.st_mtime), 0), MAX_TIME)
    return info
