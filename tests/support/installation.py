"""An installation in a cluster, changed by the scripts of this checkout."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.support.cluster import kubectl, objects, service_ready, until

ROOT = Path(__file__).parents[2]
LOCAL, JOBSINK = "knative/overlays/local", "knative/overlays/jobsink"


async def run(*command: str, timeout: float = 900.0) -> str:
    """Run a command in this checkout, and return what it prints. It fails the test unless the command succeeds."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), timeout)
    assert process.returncode == 0, f"{' '.join(command)}: {out.decode()[-3000:]}"
    return out.decode()


async def ready() -> None:
    """Wait until the installation is ready."""
    await kubectl(
        "wait", "--for=condition=Ready", "pod", "-l", "app.kubernetes.io/name=nats", "--timeout=180s", timeout=190
    )

    async def settled() -> bool:
        found = await objects("ksvc")
        return bool(found) and all(map(service_ready, found))

    await until("services are ready", settled, 300)
    await kubectl("rollout", "status", "deployment/dispatcher", "--timeout=180s", timeout=190)
