"""Reading of workspace archives without unpacking them: one file, or the digest of everything."""

from __future__ import annotations

import hashlib
import json
import tarfile
import threading
from pathlib import Path

import zstandard

from ocf.functions.workspace.archive import BLOCK, CHUNK, MAX_WINDOW, ExactReader, next_header
from ocf.functions.workspace.baseline import Limits
from ocf.functions.workspace.errors import InvalidWorkspace, WorkspaceTooLarge
from ocf.functions.workspace.safe_walk import Stopped

#: What git writes differently in each clone of the same commit.
_OF_ONE_CLONE = (".git/index", ".git/FETCH_HEAD", ".git/ORIG_HEAD", ".git/logs/", ".git/objects/")


def tree_digest(archive: Path, limits: Limits, stop: threading.Event, *, clone: bool = False) -> str:
    """Return the SHA-256 of what an archive holds: kinds, modes, paths and contents in their order, without times.

    With `clone` also without what git writes differently in each clone; a commit's id stands for it.

    Raises:
        InvalidWorkspace: the archive is damaged.
        WorkspaceTooLarge: it holds more than `limits` allow.
        Stopped: cancelled.
    """
    digest, size = hashlib.sha256(b"clone\n" if clone else b"tree\n"), 0
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    with archive.open("rb") as file, decompressor.stream_reader(file, read_size=CHUNK) as stream:
        source = ExactReader(stream)
        for _ in range(limits.max_entries):
            info = next_header(source)
            if info is None:
                return digest.hexdigest()
            size += info.size
            if size > limits.max_bytes:
                raise WorkspaceTooLarge(f"the archive holds more than {limits.max_bytes} bytes")
            counts = not (clone and info.name.startswith(_OF_ONE_CLONE))
            if counts:
                about = [info.type.decode("latin-1"), info.mode, info.name, info.linkname, info.size]
                digest.update(json.dumps(about).encode() + b"\n")
            left = info.size
            while left > 0 and not stop.is_set():
                data = source.read(min(left, CHUNK))
                left -= len(data)
                if counts:
                    digest.update(data)
            if stop.is_set():
                raise Stopped
            source.read(-info.size % BLOCK)
    raise WorkspaceTooLarge(f"the archive has more than {limits.max_entries} entries")


def read_member(archive: Path, path: str, limit: int, limits: Limits, stop: threading.Event) -> bytes:
    """Return one regular file of an archive, of at most `limit` bytes.

    Raises:
        InvalidWorkspace: there is no such file, it is larger, or the archive is damaged.
        WorkspaceTooLarge: the archive holds more than `limits` allow.
        Stopped: cancelled.
    """
    size = 0
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    with archive.open("rb") as file, decompressor.stream_reader(file, read_size=CHUNK) as stream:
        source = ExactReader(stream)
        for _ in range(limits.max_entries):
            info = next_header(source)
            if info is None:
                break
            size += info.size
            if size > limits.max_bytes:
                raise WorkspaceTooLarge(f"the archive holds more than {limits.max_bytes} bytes")
            wanted = info.name == path and info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
            if wanted and info.size > limit:
                raise InvalidWorkspace(f"{path!r} has {info.size} bytes; at most {limit}")
            if wanted:
                return source.read(info.size)
            left = info.size + -info.size % BLOCK
            while left > 0 and not stop.is_set():
                left -= len(source.read(min(left, CHUNK)))
            if stop.is_set():
                raise Stopped
    raise InvalidWorkspace(f"there is no file {path!r} in the stored workspace")
