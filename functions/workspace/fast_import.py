"""Client of `git fast-import`: passes file contents, so that git need not read a workspace itself."""

from __future__ import annotations

import os
import subprocess
from typing import IO

from ocf.functions.workspace.git import REPOSITORY, Git, GitFailed

_LOG = "fast-import.log"


class FastImport:
    """A `git fast-import` into the private repository, started with the first import.

    A context manager: leaving it with an error kills the process, and nothing is recorded.
    """

    def __init__(self, git: Git) -> None:
        self._git = git
        self._process: subprocess.Popen[bytes] | None = None
        self._mark = 0

    def __enter__(self) -> FastImport:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._process is None:
            return
        if kind is not None:
            self._process.kill()
        try:
            self._in.close()
        except BrokenPipeError:
            self._process.kill()
        code = self._process.wait()
        if kind is None and code:
            message = (self._git.home / _LOG).read_text(errors="replace").strip()
            raise GitFailed(f"git fast-import: {message[-500:]}")

    @property
    def used(self) -> bool:
        """Return whether anything was imported."""
        return self._process is not None

    @property
    def _in(self) -> IO[bytes]:
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin is not None
        return self._process.stdin

    def _start(self) -> subprocess.Popen[bytes]:
        with (self._git.home / _LOG).open("wb") as log:
            return subprocess.Popen(
                [
                    "git",
                    f"--git-dir={self._git.home / REPOSITORY}",
                    # Stored, not deflated: it lives as long as the execution, and only speed counts.
                    *("-c", "core.compression=0", "-c", "fastimport.unpackLimit=0", "-c", "core.fsync=none"),
                    *("fast-import", "--quiet", "--done", "--force", "--depth=0", "--big-file-threshold=1m"),
                    *("--date-format=raw",),
                ],
                cwd=self._git.home,
                env=self._git.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                bufsize=256 * 1024,
                start_new_session=True,
            )

    def begin_blob(self, size: int) -> int:
        """Announce `size` bytes of content for `write`; return their mark."""
        self._mark += 1
        self._in.write(b"blob\nmark :%d\ndata %d\n" % (self._mark, size))
        return self._mark

    def write(self, data: bytes) -> None:
        """Write content of the open blob."""
        self._in.write(data)

    def end_blob(self) -> None:
        """End the open blob."""
        self._in.write(b"\n")

    def begin_commit(self, ref: str, parent: str | None = None) -> None:
        """Begin a commit on `ref`; file changes follow."""
        self._in.write(b"commit %s\ncommitter ocf <ocf@localhost> 0 +0000\ndata 0\n" % ref.encode())
        self._in.write(b"from %s^0\n" % parent.encode() if parent else b"")

    def remove(self, path: str) -> None:
        """Remove `path` in the commit."""
        self._in.write(b"D %s\n" % _quoted(path))

    def put(self, path: str, mode: int, mark: int) -> None:
        """Set `path` in the commit to this git mode and the blob of this mark."""
        self._in.write(b"M %o :%d %s\n" % (mode, mark, _quoted(path)))

    def done(self) -> None:
        """End the stream; without it nothing is recorded."""
        self._in.write(b"done\n")


def _quoted(path: str) -> bytes:
    raw = os.fsencode(path)
    return b'"' + raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n") + b'"'
