"""Seconds from a submit to the agent's first word, beside `opencode run` in a Job or in a running pod, in turn.

A Job per task is what other systems start, so a bare Job with our image is the yardstick: same node, same model, same
prompt. The time of `opencode run` ends with the first line of its log, that of ours with the agent's first text.
`OCF_E2E_PAIRS` is the number of pairs of each row (default 1).
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

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
    with_variable,
)
from tests.support.offline import opencode_env

PAIRS = int(os.environ.get("OCF_E2E_PAIRS", "1"))
PROMPT = "Say hello"
pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(400 * PAIRS + 600)]


#: What runs `opencode run` in a folder of its own. It ends with the pod that it runs in.
OPENCODE_RUN = (
    'mkdir -p /tmp/home /tmp/work && cd /tmp/work && exec "$OPENCODE_BIN" run --format json "$PROMPT" </dev/null'
)
#: Prints the bytes of a control group's memory that do not go away: the most of 200 looks, ten a second.
MOST_MEMORY = """
most=0 looks=0
for file in /sys/fs/cgroup/memory/memory.stat /sys/fs/cgroup/memory.stat; do [ -e $file ] && break; done
while [ $looks -lt 200 ]; do
  while read -r name bytes; do case $name in rss|anon) [ $bytes -gt $most ] && most=$bytes; esac; done <$file
  looks=$((looks+1)); sleep 0.1
done
echo $most
"""


async def bare(command: str) -> dict[str, Any]:
    """The specification of a pod that runs a shell command with the image of an agent, and nothing of ours."""
    key = (await secret("ocf-offline"))["OCF_OFFLINE_KEY"]
    env = opencode_env(Path("/tmp/home"), "http://model:8080/v1", key, "scripted") | {"NO_PROXY": "model"}
    del env["PATH"]
    container = {
        "name": "opencode",
        "image": "dev.local/ocf-full:test",
        "command": ["sh", "-c", command],
        "env": [{"name": name, "value": value} for name, value in {**env, "PROMPT": PROMPT}.items()],
        "resources": {"requests": {"cpu": "100m", "memory": "640Mi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
        "securityContext": RESTRICTED,
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "priorityClassName": "ocf-execute",
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
    }


async def job() -> float:
    """Seconds of a bare Job from its creation to the first line of `opencode run`."""
    name = f"bare-{uuid.uuid4().hex[:8]}"
    pod = await bare(OPENCODE_RUN)
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


@asynccontextmanager
async def bare_pod() -> AsyncIterator[str]:
    """A pod that waits for `opencode_run`; yields its name."""
    name = f"bare-{uuid.uuid4().hex[:8]}"
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": await bare("exec sleep 7200")}
    await kubectl("create", "-f", "-", given=json.dumps(manifest))
    try:
        await kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=120s", timeout=130)
        yield name
    finally:
        await kubectl("delete", "pod", name, "--wait=true", timeout=120)


async def opencode_run(pod: str) -> float:
    """Seconds of `opencode run` in a pod from its start to its first line."""
    began, first, *_ = (await kubectl("exec", pod, "--", "sh", "-c", f"date +%s%3N; {OPENCODE_RUN}")).splitlines()
    return float((json.loads(first)["timestamp"] - int(began)) / 1000)


async def most_memory(pod: str, container: str) -> int:
    """MiB that a container holds at most in the next twenty seconds."""
    said = await kubectl("exec", pod, "-c", container, "--", "sh", "-c", MOST_MEMORY, timeout=90)
    return int(said) >> 20


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


@pytest.mark.parametrize("warm", ["1", "0"], ids=["warm server", "no warm server"])
async def test_first_word_in_a_pod_that_runs(here: Cluster, warm: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each pair: `opencode run` in a pod that runs, then a submit to a pod of execute that runs, with a warm server or
    without; prints both, their ratio at the median, and what both hold of memory."""
    pairs: list[tuple[float, float]] = []
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(with_variable("execute", "WARM_SLOTS", warm))
        for service in ("gateway", "submit", "execute"):
            await stack.enter_async_context(scaled(service, 1))
        other = await stack.enter_async_context(bare_pod())
        [pod] = await pods("execute", ending=False)
        await opencode_run(other)  # what only the first start in a container pays is paid
        await ours(here)

        async def ready() -> bool:
            # The run that came first has one, and each pair.
            log = await kubectl("logs", pod, "-c", "execute")
            return warm == "0" or log.count("slots.ready") > len(pairs) + 1

        for _ in range(PAIRS):
            await until("a warm server", ready, 180)
            pairs.append((await opencode_run(other), await ours(here)))
        await until("a warm server", ready, 180)
        theirs, _ = await asyncio.gather(most_memory(other, "opencode"), opencode_run(other))
        *parts, _ = await asyncio.gather(*(most_memory(pod, name) for name in ("execute", "agent")), ours(here))
    ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
    with capsys.disabled():
        for bare_seconds, seconds in pairs:
            print(f"\n    warm {warm}: opencode run {bare_seconds:.2f} s, ours {seconds:.2f} s", end="")
        print(f"\n    warm {warm}: ours against opencode run {ratio:.2f} (median of {PAIRS})", end="")
        print(f"\n    warm {warm}: MiB of opencode run {theirs}, of execute and agent {parts}")
    assert all(ours > 0 for _, ours in pairs)
