"""The file-browser case: a second pod on the shared volume sees what the agent writes, as it writes it."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from tests.support.cluster import NAMESPACE, NEEDS_CLUSTER, Cluster, apply, built, cluster, kubectl, settled, until

pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(600)]


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Cluster]:
    """The cluster with the volume and the second pod (knative/overlays/workspaces), for the time of the test."""
    [plain] = [one for one in await built("local") if (one["kind"], one["metadata"]["name"]) == KSVC]
    wanted = [
        one
        for one in await built("workspaces")
        if (one["kind"], one["metadata"]["name"]) == KSVC or one["metadata"]["name"] in ("workspaces", "files")
    ]
    await apply(wanted)
    try:
        await kubectl("rollout", "status", "deployment/files", "--timeout=90s", timeout=100)
        await until("execute with the volume", lambda: settled("execute"), 180)
        async with cluster(tmp_path, f"e2e-{uuid.uuid4().hex[:8]}") as connected:
            yield connected
    finally:
        await apply([plain])
        await kubectl("delete", "deployment,service,networkpolicy", "files", "--wait=false")
        await kubectl("delete", "pvc", "workspaces", "--wait=false")
        await until("execute without the volume", lambda: settled("execute"), 180)


KSVC = ("Service", "execute")


async def test_a_second_pod_sees_the_agents_files_within_a_second(
    here: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """The agent writes the time into a file, twice a second; the browser's pod shows each line at most 1 s later."""
    workspace = {"source": "shared", "path": here.project}
    execution = await here.client.submit(prompt="Please write ticks", workspace=workspace)
    late: list[float] = []
    async with httpx2.AsyncClient(base_url=f"http://files.{NAMESPACE}.svc.cluster.local:8080", trust_env=False) as http:
        async with asyncio.timeout(180):
            while len(late) < 20:
                answer = await http.get(f"/{here.project}/ticks.txt")
                lines = answer.text.split("\n")[:-1] if answer.status_code == 200 else []
                late += [time.time() - float(line) for line in lines[len(late) :]]
                await asyncio.sleep(0.02)
    assert (await here.ended(execution)).state == "completed"
    with capsys.disabled():
        print(f"\n    seen by the second pod: median {statistics.median(late):.3f} s, worst {max(late):.3f} s, n=20")
    assert max(late) < 1.0
