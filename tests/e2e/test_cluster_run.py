"""The system in a real cluster: from no pod at all to an archived run, and back to no pod.

`KUBECONFIG` says which cluster; the system is installed in it (docs/how-to/install-on-a-cluster.md). Without one these
are skipped.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from pathlib import Path

import httpx2
import nats
import pytest
from nats.aio.msg import Msg

from ocf.events.output import ChunkType
from ocf.functions.runtime.nats_auth import Credentials
from tests.support.cluster import NAMESPACE, NEEDS_CLUSTER, Cluster, at_zero, gateway, kubectl, pods, until

KNATIVE = Path(__file__).parents[2] / "knative"
pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(600)]


def say(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Print a figure, past pytest's capturing."""
    with capsys.disabled():
        print(f"\n    {text}", end="")


async def test_an_event_from_outside_runs_from_zero_pods_to_an_archive_and_back(
    here: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """Published from outside, an event wakes each function, real OpenCode completes, S3 has it all, no pod is left."""
    await until("no pod of a function", at_zero, 180)
    for what in ("cold", "warm"):
        started, first, text_at = time.monotonic(), 0.0, 0.0
        execution = await here.client.submit(prompt="Say hello")
        text = ""
        async for chunk in here.client.watch(execution):
            first = first or time.monotonic() - started
            if chunk.type is ChunkType.TEXT:
                text_at = text_at or time.monotonic() - started
            text += str(chunk.data)
        ended = time.monotonic() - started
        record = await here.ended(execution)
        assert (record.state, record.reason, record.message) == ("completed", None, None)
        assert "offline scripted model" in text
        assert await here.terminal_facts(execution) == ["completed"]
        await here.archived(execution)
        say(
            capsys,
            f"{what}: first status {first:.1f} s, first output {text_at:.1f} s, ended {ended:.1f} s, "
            f"archived {time.monotonic() - started:.1f} s",
        )
    manifest = json.loads(await here.store.get(f"{here.project}/{execution}/manifest.json"))
    lines = gzip.decompress(await here.store.get(f"{here.project}/{execution}/output.ndjson.gz")).splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, record.last_sequence + 1))
    assert manifest["execution_id"] == execution
    say(capsys, f"back at zero after {await until('no pod of a function', at_zero, 180):.1f} s\n")


# nats-py 2.16 calls aiohttp in a way that aiohttp wants changed.
@pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float':DeprecationWarning")
async def test_a_viewer_watches_live_over_the_websocket_of_nats(here: Cluster, tmp_path: Path) -> None:
    """The gateway, itself started from zero, hands out credentials; with them output arrives as it is said."""
    execution = await here.client.submit(prompt="Please work slowly")
    async with gateway(here) as http:
        await here.running(execution)
        answer = await http.post(f"/tasks/{execution}/token")
        assert answer.status_code == 200, answer.text
    viewer = answer.json()
    creds = tmp_path / "viewer.creds"
    creds.write_text(Credentials(viewer["jwt"], viewer["seed"]).file())
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def keep(message: Msg) -> None:
        got.put_nowait(message.data)

    connection = await nats.connect(viewer["nats_ws"], user_credentials=str(creds))
    try:
        await connection.subscribe(viewer["subject"], cb=keep)
        assert json.loads(await asyncio.wait_for(got.get(), 60))["seq"] > 0
    finally:
        await connection.close()
    assert (await here.ended(execution)).state == "completed"


async def test_five_at_once_share_the_pods_that_fit(here: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Five executions from no pod of execute at all: in several pods, as many as the node has processors for, one at a
    time in each; in one attempt, and none is lost."""
    await until("no execute pod", _no_execute_pod, 180)
    started = time.monotonic()
    executions = [await here.client.submit(prompt="Please work slowly") for _ in range(5)]
    await asyncio.gather(*(here.running(execution, timeout=300) for execution in executions))
    say(capsys, f"five from no pod, until all have spoken: {time.monotonic() - started:.1f} s\n")
    records = await asyncio.gather(*(here.ended(execution, timeout=300) for execution in executions))
    assert [record.state for record in records] == ["completed"] * 5
    assert len({record.attempts[0].worker for record in records}) > 1
    assert [len(record.attempts) for record in records] == [1] * 5


async def _no_execute_pod() -> bool:
    return not await pods("execute")


async def test_functions_take_events_from_the_dispatcher_only(here: Cluster) -> None:
    """Another pod, or a test in the cluster's network, cannot hand a function an event."""
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x", "ce-type": "dev.ocf.task.cancel.v1"}
    async with httpx2.AsyncClient(timeout=180, trust_env=False) as http:
        answer = await http.post(f"http://cancel.{NAMESPACE}.svc.cluster.local/", headers=headers, content=b"{}")
    assert answer.status_code == 401


@pytest.mark.parametrize("overlay", ["local", "production", "jobsink", "events", "inbox", "workspaces"])
async def test_the_cluster_accepts_an_overlay(overlay: str) -> None:
    """Every object passes the schemas and webhooks of this Kubernetes and this Knative (nothing is changed)."""
    said = await kubectl("apply", "--dry-run=server", "-k", str(KNATIVE / "overlays" / overlay), timeout=120)
    assert "service.serving.knative.dev/submit" in said
