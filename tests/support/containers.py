"""The agent's container without Kubernetes: another user, its own processes, started again whenever it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ocf.functions.core import syscalls

ROOT = Path(__file__).resolve().parents[2]
UID = 65533
SYSTEM_PYTHON = Path("/usr/bin/python3")
_BOOT = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
    "from ocf.functions.execute.sandbox.agent_host_server import main; main()"
)
_DIES = ("setpriv", "--pdeathsig", "KILL")
_LOOP = 'while :; do "$@"; sleep 0.2; done'


def why_not() -> str | None:
    """Why there can be none here."""
    if not {syscalls.CAP_SYS_ADMIN, syscalls.CAP_SETUID, syscalls.CAP_SETGID} <= syscalls.capabilities():
        return "only root can start one"
    return None if SYSTEM_PYTHON.exists() else f"there is no {SYSTEM_PYTHON}, which other users may run"


@dataclass
class AgentContainer:
    """`socket` is for AGENT_HOST_SOCKET; `inside` is the first process, seen from outside."""

    socket: Path
    log: Path
    _process: subprocess.Popen[bytes]

    def inside(self) -> int | None:
        """The process id of the host that runs now."""
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                said = status.read_text()
                command = (status.parent / "cmdline").read_bytes()
            except OSError:
                continue
            first = any(line.split()[-1] == "1" for line in said.splitlines() if line.startswith("NSpid:"))
            if first and str(self.socket).encode() in command.split(b"\0") and b"agent_host" in command:
                return int(status.parent.name)
        return None


@contextmanager
def agent_container(directory: Path) -> Iterator[AgentContainer]:
    """One whose folder is `directory`/shared, until the block ends. It shares this process's group and network."""
    shared = directory / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    socket, log = shared / "host.sock", directory / "host.log"
    command = [
        *_DIES, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
        "setpriv", "--reuid", str(UID), "--regid", str(os.getegid()), "--clear-groups", "--inh-caps", "-all",
        "--bounding-set", "-all", "--no-new-privs",
        str(SYSTEM_PYTHON), "-I", "-S", "-c", _BOOT, str(socket), str(os.geteuid()),
    ]  # fmt: skip
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*_DIES, "bash", "-c", _LOOP, "loop", *command], stdin=subprocess.DEVNULL, stderr=said, env={}, cwd="/"
        )
    container = AgentContainer(socket, log, process)
    try:
        yield container
    finally:
        process.kill()
        process.wait(10)
        # The change of its user cleared the signal that its parent's death would send (prctl(2), PR_SET_PDEATHSIG).
        if (inside := container.inside()) is not None:
            with suppress(ProcessLookupError):
                os.kill(inside, signal.SIGKILL)
