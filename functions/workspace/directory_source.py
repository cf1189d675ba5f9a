"""Directory source: a copy that keeps modes, times, links inside and empty directories."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

from ocf.functions.workspace.allowed_roots import Roots
from ocf.functions.workspace.baseline import Limits
from ocf.functions.workspace.errors import InvalidWorkspace, WorkspaceTooLarge
from ocf.functions.workspace.safe_tree import TreeBuilder
from ocf.functions.workspace.safe_walk import Entry, Report, Stopped, Walk, open_file, walk

_CHUNK = 8 * 1024 * 1024
#: Errors of copy_file_range between file systems that do not support it.
_CANNOT = frozenset({errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF})


def copy_tree(source: Path, target: Path, limits: Limits, roots: Roots, stop: threading.Event) -> None:
    """Copy everything below `source`, `.git` and ignored files included, into the empty directory `target`.

    Fifos, sockets and devices are left out, and private directories (`roots`), so that it never copies into itself. The
    caller removes `target` when this raises.

    Raises:
        InvalidWorkspace: `roots` do not admit it, a link leads out of the tree, a file cannot be read, or a path is too
            deep.
        WorkspaceTooLarge: over `limits`.
        Stopped: cancelled.
    """
    report = Report()
    size = 0
    tree = TreeBuilder(target)
    how = Walk(limits.max_entries, stop=stop, report=report, admit=roots.admit, hidden=roots.hidden())
    try:
        for entry in walk(source, how):
            if entry.kind == stat.S_IFDIR:
                tree.directory(entry.path, entry.stat.st_mode)
            elif entry.kind == stat.S_IFLNK:
                tree.link(entry.path, os.readlink(entry.name, dir_fd=entry.parent))
            else:
                size += entry.stat.st_size
                if size > limits.max_bytes:
                    raise WorkspaceTooLarge(f"{source} has more than {limits.max_bytes} bytes")
                _copy_file(entry, tree, stop)
        if report.truncated:
            raise WorkspaceTooLarge(f"{source} has more than {limits.max_entries} entries")
        for path, why in report.skipped:
            if why != "it is neither file, directory nor link":
                raise InvalidWorkspace(f"{path!r} cannot be copied: {why}")
        tree.finish()
    finally:
        tree.close()


def _copy_file(entry: Entry, tree: TreeBuilder, stop: threading.Event) -> None:
    try:
        source = open_file(entry)
    except OSError as error:
        raise InvalidWorkspace(f"{entry.path!r} cannot be read: {error.strerror or error}") from None
    try:
        target = tree.file(entry.path)
        try:
            found = os.fstat(source)
            # Not more than the limit has seen: it may have grown since.
            _copy_bytes(source, target, min(found.st_size, entry.stat.st_size), stop)
            tree.seal(target, found.st_mode, found.st_mtime_ns)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_bytes(source: int, target: int, size: int, stop: threading.Event) -> None:
    in_kernel = hasattr(os, "copy_file_range")  # shares blocks where the file system can
    while size > 0:
        if stop.is_set():
            raise Stopped
        if in_kernel:
            try:
                done = os.copy_file_range(source, target, min(size, 64 * _CHUNK))
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                in_kernel = False
                continue
        else:
            data = os.read(source, min(size, _CHUNK))
            done = len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]
        if not done:
            return  # the file shrank meanwhile
        size -= done
