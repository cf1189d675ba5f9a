"""Reading of workspace archives without unpacking them: one file, or the digest of everything."""

from __future__ import annotations

import threading
from pathlib import Path

from ocf.functions.workspace.archive import REGULAR, members
from ocf.functions.workspace.baseline import Limits
from ocf.functions.workspace.errors import InvalidWorkspace
from ocf.functions.workspace.tree_digest import TreeDigest


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
        if info.name == path and info.type in REGULAR:
            if info.size > limit:
                raise InvalidWorkspace(f"{path!r} has {info.size} bytes; at most {limit}")
            return b"".join(content)
    raise InvalidWorkspace(f"there is no file {path!r} in the stored workspace")
