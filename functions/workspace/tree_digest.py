"""Digest of a tree of files: kinds, modes, paths and contents in their order, without times (ADR 0025)."""

from __future__ import annotations

import hashlib
import json
import tarfile

#: What git writes differently in each clone of the same commit; and OpenCode's id of the repository, which it notes there
#: when it first looks, maybe while the files are packed.
_OF_ONE_CLONE = (".git/index", ".git/FETCH_HEAD", ".git/ORIG_HEAD", ".git/logs/", ".git/objects/", ".git/opencode")


class TreeDigest:
    """SHA-256 of the entries of an archive, while they are written or read.

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
