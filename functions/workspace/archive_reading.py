"""Reading of workspace archives, which may be hostile: unpack everything, one file, or the digest of all."""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import zstandard

from ocf.functions.workspace.archive import BLOCK, CHUNK, MAX_TIME, TreeDigest
from ocf.functions.workspace.baseline import Limits
from ocf.functions.workspace.errors import InvalidWorkspace, WorkspaceTooLarge
from ocf.functions.workspace.safe_tree import TreeBuilder
from ocf.functions.workspace.safe_walk import MAX_PATH_BYTES, Stopped

#: A frame with a larger window than this could use gigabytes.
MAX_WINDOW = 128 * 1024 * 1024
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
_LINK_TYPES = {tarfile.LNKTYPE: "a hard link", tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device"}
_KINDS = {**_LINK_TYPES, tarfile.FIFOTYPE: "a fifo"}


@dataclass(frozen=True)
class Unpacked:
    """Unpacked contents: files and links, and their bytes."""

    files: int
    content_bytes: int


def tree_digest(archive: Path, limits: Limits, stop: threading.Event, *, clone: bool = False) -> str:
    """Return the digest of what an archive holds (`TreeDigest`).

    Raises:
        InvalidWorkspace: the archive is damaged.
        WorkspaceTooLarge: it holds more than `limits` allow.
        Stopped: cancelled.
    """
    digest = TreeDigest(clone=clone)
    for info, content in members(archive, limits, stop):
        digest.entry(info)
        for data in content:
            digest.content(data)
    return digest.hexdigest()


def read_member(archive: Path, path: str, limit: int, limits: Limits, stop: threading.Event) -> bytes:
    """Return one regular file of an archive, of at most `limit` bytes.

    Raises:
        InvalidWorkspace: there is no such file, it is larger, or the archive is damaged.
        WorkspaceTooLarge: the archive holds more than `limits` allow.
        Stopped: cancelled.
    """
    for info, content in members(archive, limits, stop):
        if info.name == path and info.type in _REGULAR:
            if info.size > limit:
                raise InvalidWorkspace(f"{path!r} has {info.size} bytes; at most {limit}")
            return b"".join(content)
    raise InvalidWorkspace(f"there is no file {path!r} in the stored workspace")


class _Source(Protocol):
    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""


class ExactReader:
    """Reads exact sizes from a stream that may end or break anywhere."""

    def __init__(self, source: _Source) -> None:
        self._source = source

    def read(self, size: int) -> bytes:
        """Read exactly `size` bytes."""
        try:
            data = self._source.read(size)
            while len(data) < size and (more := self._source.read(size - len(data))):
                data += more
        except zstandard.ZstdError as error:
            raise InvalidWorkspace(f"the archive is not a valid zstd stream: {error}") from None
        if len(data) < size:
            raise InvalidWorkspace("the archive ends too early")
        return data


def unpack_tree(archive: Path, target: Path, limits: Limits, stop: threading.Event) -> Unpacked:
    """Fill the empty directory `target` from `archive`; the caller removes it when this raises.

    Raises:
        InvalidWorkspace: it is damaged, or has an unsafe path, a link that leads out, a hard link, a device, a fifo, or
            a duplicate.
        WorkspaceTooLarge: it holds more than `limits` allow.
        Stopped: cancelled.
    """
    files = size = 0
    tree = TreeBuilder(target)
    try:
        for info, content in members(archive, limits, stop):
            files, size = files + (not info.isdir()), size + info.size
            _unpack_one(info, content, tree)
        tree.finish()
    finally:
        tree.close()
    return Unpacked(files, size)


def members(archive: Path, limits: Limits, stop: threading.Event) -> Iterator[tuple[tarfile.TarInfo, Iterator[bytes]]]:
    """Yield every entry of an archive with its content; what of it is not read is passed over.

    Raises:
        InvalidWorkspace: it is damaged.
        WorkspaceTooLarge: it holds more than `limits` allow.
        Stopped: cancelled.
    """
    size = entries = 0
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    with archive.open("rb") as file, decompressor.stream_reader(file, read_size=CHUNK) as stream:
        source = ExactReader(stream)
        while (info := next_header(source)) is not None:
            entries, size = entries + 1, size + info.size
            if entries > limits.max_entries:
                raise WorkspaceTooLarge(f"the archive has more than {limits.max_entries} entries")
            if size > limits.max_bytes:
                raise WorkspaceTooLarge(f"the archive holds more than {limits.max_bytes} bytes")
            content = _content(source, info.size, stop)
            yield info, content
            for _ in content:
                pass
            source.read(-info.size % BLOCK)


def _content(source: ExactReader, left: int, stop: threading.Event) -> Iterator[bytes]:
    while left > 0:
        if stop.is_set():
            raise Stopped
        yield (data := source.read(min(left, CHUNK)))
        left -= len(data)
    if stop.is_set():
        raise Stopped


def next_header(source: ExactReader) -> tarfile.TarInfo | None:
    """Return the next entry with its long names filled in; None at the end."""
    long: dict[bytes, str] = {}
    while True:
        block = source.read(BLOCK)
        if not any(block):
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise InvalidWorkspace(f"the archive is not a valid tar: {error}") from None
        if info.size < 0:
            raise InvalidWorkspace("the archive is not a valid tar: negative size")
        if info.type not in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            info.name = long.get(tarfile.GNUTYPE_LONGNAME, info.name)
            info.linkname = long.get(tarfile.GNUTYPE_LONGLINK, info.linkname)
            return info
        if info.size > MAX_PATH_BYTES + 2 or info.type in long:
            raise InvalidWorkspace(f"the archive has a name longer than {MAX_PATH_BYTES} bytes")
        padded = source.read(info.size + -info.size % BLOCK)
        long[info.type] = os.fsdecode(padded[: info.size].rstrip(b"\0"))


def _unpack_one(info: tarfile.TarInfo, content: Iterator[bytes], tree: TreeBuilder) -> None:
    if info.type == tarfile.DIRTYPE:
        tree.directory(info.name.removesuffix("/"), info.mode)
    elif info.type == tarfile.SYMTYPE:
        tree.link(info.name, info.linkname)
    elif info.type in _REGULAR:
        fd = tree.file(info.name)
        try:
            for piece in content:
                data = memoryview(piece)
                while data:
                    data = data[os.write(fd, data) :]
            tree.seal(fd, info.mode, min(max(int(info.mtime), 0), MAX_TIME) * 10**9)
        finally:
            os.close(fd)
    else:
        kind = _KINDS.get(info.type, f"an entry of tar type {info.type!r}")
        raise InvalidWorkspace(f"{info.name!r} is {kind}; only files, directories and symbolic links are allowed")
