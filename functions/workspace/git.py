"""git commands controlled by our own arguments alone.

No system or user configuration, no prompt, no hook, no file-system monitor, only the named protocols. Git never runs
with a configuration from a workspace, except on a clone that nothing else has touched yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ocf.events.errors import Unavailable

CONFIG = """\
[core]
\thooksPath = /dev/null
\tfsmonitor = false
\tuntrackedCache = false
[safe]
\tdirectory = *
[init]
\tdefaultBranch = main
\ttemplateDir =
[gc]
\tauto = 0
[maintenance]
\tauto = false
[submodule]
\trecurse = false
[http]
\tfollowRedirects = false
\tlowSpeedLimit = 1000
\tlowSpeedTime = 30
[protocol]
\tallow = never
[advice]
\tdetachedHead = false
"""
#: The private repository of a workspace, below `Git.home`.
REPOSITORY = "base.git"
_PATH = "/usr/local/bin:/usr/bin:/bin"


class GitFailed(Unavailable):
    """A git command failed; the message is the end of its stderr."""


@dataclass(frozen=True)
class Git:
    """git for one execution. `home` is private and holds its configuration file `gitconfig`."""

    home: Path
    protocols: tuple[str, ...] = ()
    timeout: float = 300.0
    max_file_bytes: int | None = None

    def set_up(self, extra: str = "") -> None:
        """Write the configuration. `extra` must hold no secret."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.home / "gitconfig").write_text(CONFIG + extra)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the whole environment of a git process."""
        program = shutil.which("git")
        return {
            "PATH": f"{Path(program).parent}:{_PATH}" if program else _PATH,
            "HOME": str(self.home),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(self.home / "gitconfig"),
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_ALLOW_PROTOCOL": ":".join(self.protocols) or "none",
            **(extra or {}),
        }

    async def run(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
        stdin: bytes | None = None,
    ) -> bytes:
        """Run `git ARGUMENTS` with `stdin`; return its output, unless `stdout` is a descriptor to print to.

        Raises:
            GitFailed: it ended with an error, or not in time. No process of it continues then, nor after cancellation.
        """
        process = await asyncio.create_subprocess_exec(
            "git",
            *arguments,
            cwd=cwd,
            env=self.environment(env),
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE if stdout is None else stdout,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._limit(process.pid)
        try:
            async with asyncio.timeout(self.timeout):
                out, err = await process.communicate(stdin)
        except TimeoutError:
            raise GitFailed(f"git {arguments[0]} took longer than {self.timeout:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await asyncio.shield(process.wait())
        if process.returncode:
            raise GitFailed(_error_lines(err) or f"git {arguments[0]} ended with {process.returncode}")
        return out or b""

    def _limit(self, pid: int) -> None:
        if self.max_file_bytes is None:
            return
        import resource

        if hasattr(resource, "prlimit"):  # Linux; set right after the start, before git has anything to write
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (self.max_file_bytes, self.max_file_bytes))


def _error_lines(stderr: bytes) -> str:
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    error_lines = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))] or lines
    return " ".join(error_lines[-3:])[:500]
