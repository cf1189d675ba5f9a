"""`python -m tests.support.rerun_apart FOLDER BUNDLE…`: a stack that has never seen the bundles runs them again.

Started in a network namespace of its own, it has loopback and nothing else. Its last line is JSON by bundle: the
status of the import and of its rerun, both patches, and the calls of both recordings as (parts of a request, outcome).
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2

from ocf.events.execution_ref import ExecutionRef
from ocf.functions.recording.recorded_calls_reader import load
from tests.support.offline import OPENCODE
from tests.support.sessions import call
from tests.support.stack import Project, running_stack, until

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def loopback_up() -> None:
    """Switch on the only interface of a new network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


async def diff(project: Project, execution: str) -> str:
    """The patch of an execution."""
    async with httpx2.AsyncClient(base_url=project.stack.answer["gateway"], trust_env=False, timeout=20) as http:
        answer = await http.get(f"/tasks/{execution}/diff", params={"project_id": project.name})
    return answer.text


async def archived(project: Project, execution: str) -> dict[str, Any]:
    """The status of an ended execution, once its archive is complete."""

    async def look() -> Any:
        found = await call(project, "GET", f"/tasks/{execution}/status")
        return found if found["archived"] else None

    return dict(await until(look, timeout=300, what=f"the archive of {execution}"))


async def calls(project: Project, execution: str) -> list[tuple[list[str], str]]:
    """The calls of an execution's recording, in an order that does not depend on who asked first."""
    recording = await load(project.store, ExecutionRef(project.name, execution))
    return sorted(([part.hash for part in recording.request_of(one)], one.outcome) for one in recording.calls)


async def again(project: Project, bundle: Path) -> dict[str, Any]:
    """Import one bundle, run it again, and return what both were."""
    argv = [sys.executable, "-m", "ocf.cli.main", "import", str(bundle), "--project", project.name]
    env = {"PATH": os.environ["PATH"], "HOME": str(bundle.parent), "OCF_DATA_DIR": str(project.stack.data_dir)}
    imported = await asyncio.to_thread(subprocess.run, argv, env=env, capture_output=True, text=True, timeout=120)
    assert imported.returncode == 0, imported.stderr
    execution = imported.stdout.strip()
    begun = await call(project, "POST", f"/tasks/{execution}/rerun", {})
    ids = (execution, begun["execution_id"])
    return {
        "was": await call(project, "GET", f"/tasks/{execution}/status"),
        "now": await archived(project, begun["execution_id"]),
        "diffs": [await diff(project, one) for one in ids],
        "calls": [await calls(project, one) for one in ids],
    }


async def main(folder: Path, bundles: list[Path]) -> dict[str, Any]:
    # Its model has an address where nobody listens, and no key.
    with running_stack(folder, OPENCODE_BIN=str(OPENCODE)) as running:
        async with running.project("apart") as project:
            return {bundle.name: await again(project, bundle) for bundle in bundles}


if __name__ == "__main__":
    if os.geteuid() == 0:
        loopback_up()
    found = asyncio.run(main(Path(sys.argv[1]), [Path(one) for one in sys.argv[2:]]))
    sys.stdout.write(json.dumps(found))
