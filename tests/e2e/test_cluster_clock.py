"""Seconds from a submit to the agent's first word, beside a Kubernetes Job that runs `opencode run`, in turn.

A Job per task is what other systems start, so a bare Job with our image is the yardstick: same node, same model, same
prompt. The time of a Job ends with the first line of its log, that of ours with the agent's first text. `OCF_E2E_PAIRS`
is the number of pairs of each row (default 1).
"""

from __future__ import annotations

import json
import os
import statistics
import time
import uuid
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ocf.events.output import ChunkType
from tests.support.cluster import (
    NEEDS_CLUSTER,
    RESTRICTED,
    Cluster,
    at_zero,
    gateway,
    kubectl,
    objects,
    pods,
    scaled,
    secret,
    until,
)
from tests.support.offline import opencode_env

PAIRS = int(os.environ.get("OCF_E2E_PAIRS", "1"))
PROMPT = "Say hello"
pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(400 * PAIRS + 600)]


async def job() -> float:
    """Seconds of a bare Job from its creation to the first line of `opencode run`."""
    name = f"bare-{uuid.uuid4().hex[:8]}"
    key = (await secret("ocf-offline"))["OCF_OFFLINE_KEY"]
    env = opencode_env(Path("/tmp/home"), "http://model:8080/v1", key, "scripted") | {"NO_PROXY": "model"}
    del env["PATH"]
    command = (
        'mkdir -p /tmp/home /tmp/work && cd /tmp/work && exec "$OPENCODE_BIN" run --format json "$PROMPT" </dev/null'
    )
    container = {
        "name": "opencode",
        "image": "dev.local/ocf-full:test",
        "command": ["sh", "-c", command],
        "env": [{"name": name, "value": value} for name, value in {**env, "PROMPT": PROMPT}.items()],
        "resources": {"requests": {"cpu": "100m", "memory": "640Mi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
        "securityContext": RESTRICTED,
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "priorityClassName": "ocf-execute",
        "containers": [container],
    }
    manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": {"bare": name}}, "spec": pod}},
    }
    began = time.time()
    await kubectl("create", "-f", "-", given=json.dumps(manifest))
    try:
        said: list[str] = []

        async def spoken() -> bool:
            if [one for one in await objects("pods", "-l", f"bare={name}") if one["status"]["phase"] != "Pending"]:
                said[:] = (await kubectl("logs", f"job/{name}")).splitlines()
            return bool(said)

        await until("a line of the Job", spoken, 180)
    finally:
        await kubectl("delete", "job", name, "--wait=true", timeout=120)
    at = json.loads(said[0])["timestamp"] / 1000
    return float(at - began)


async def ours(here: Cluster) -> float:
    """Seconds from a POST to the gateway to the first text of the agent."""
    async with gateway(here) as http:
        began = time.monotonic()
        body = {"project_id": here.project, "prompt": PROMPT}
        answer = await http.post("/tasks/execute", json=body)
        assert answer.status_code in (200, 201, 202), answer.text
    async for chunk in here.client.watch(answer.json()["execution_id"]):
        if chunk.type is ChunkType.TEXT:
            took = time.monotonic() - began
            await here.ended(answer.json()["execution_id"])
            return took
    raise AssertionError("the agent said nothing")


async def _no_execute_pod() -> bool:
    return not await pods("execute")


@pytest.mark.parametrize("what", ["everything at zero", "gateway and control up"])
async def test_first_word_beside_a_bare_job(here: Cluster, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each pair: a Job, then a submit, with no pod of execute; prints both and their ratio at the median."""
    pairs = []
    async with AsyncExitStack() as stack:
        if what == "gateway and control up":
            for service in ("gateway", "submit"):
                await stack.enter_async_context(scaled(service, 1))
        for _ in range(PAIRS):
            await until("no pod", at_zero if what == "everything at zero" else _no_execute_pod, 300)
            pairs.append((await job(), await ours(here)))
            with capsys.disabled():
                print(f"\n    {what}: bare Job {pairs[-1][0]:.1f} s, ours {pairs[-1][1]:.1f} s", end="", flush=True)
    ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
    with capsys.disabled():
        print(f"\n    {what}: ours against a bare Job {ratio:.2f} (median of {PAIRS})")
    assert all(ours > 0 for _, ours in pairs)
