"""What happens to running executions when the cluster does what clusters do. Each must end once, in the right state."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import suppress

import httpx2
import pytest

from tests.support.cluster import (
    NEEDS_CLUSTER,
    Cluster,
    kubectl,
    objects,
    pod_of,
    restart_nats,
    revision,
    roll_out,
    until,
)

pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(600)]
SLOW, LONG = "Please work slowly", "Please work for long"
RETRIED = {"max_attempts": 3}


async def test_cancel_reaches_the_right_pod_in_time(here: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """From the cancel event to the terminal state, said once no process is left: p95 of twenty within 1.5 s. The run
    beside it goes on."""
    seconds: list[float] = []
    for _ in range(10):
        pair = [await here.client.submit(prompt=LONG) for _ in range(2)]
        await asyncio.gather(*(here.running(execution) for execution in pair))
        while pair:
            execution = pair.pop(0)
            started = time.monotonic()
            await here.client.cancel(execution, why="e2e")
            record = await here.ended(execution, timeout=60)
            seconds.append(time.monotonic() - started)
            assert record.state == "cancelled"
            assert await here.terminal_facts(execution) == ["cancelled"]
            assert [(await here.client.status(other)).state for other in pair] == ["running"] * len(pair)
    p95 = statistics.quantiles(seconds, n=20)[-1]
    with capsys.disabled():
        print(f"\n    cancel: median {statistics.median(seconds):.2f} s, p95 {p95:.2f} s, n={len(seconds)}")
    assert p95 <= 1.5


async def test_a_run_whose_pod_is_killed_is_tried_again(here: Cluster) -> None:
    """`kubectl delete pod --force`: the lease runs out, another pod takes it over, and it completes once."""
    execution = await here.client.submit(prompt=SLOW, retry=RETRIED)
    record = await here.running(execution)
    pod = await pod_of(record)
    await kubectl("delete", "pod", pod, "--force", "--grace-period=0")
    record = await here.ended(execution)
    assert record.state == "completed"
    assert [attempt.ended for attempt in record.attempts] == ["worker_lost", "completed"]
    assert await here.terminal_facts(execution) == ["completed"]


async def test_a_run_without_retry_whose_pod_is_killed_fails_once(here: Cluster) -> None:
    """One attempt was allowed: the execution ends as failed, worker_lost, and does not run twice."""
    execution = await here.client.submit(prompt=SLOW)
    record = await here.running(execution)
    await kubectl("delete", "pod", await pod_of(record), "--force", "--grace-period=0")
    record = await here.ended(execution)
    assert (record.state, record.reason, len(record.attempts)) == ("failed", "worker_lost", 1)
    assert await here.terminal_facts(execution) == ["failed"]


async def test_a_run_outlives_a_restart_of_nats(here: Cluster) -> None:
    """The NATS pod is replaced in mid-run: the run goes on, its output has no gap, it completes in its one attempt."""
    execution = await here.client.submit(prompt=SLOW)
    await here.running(execution)
    await restart_nats()
    await here.completed_once(execution)


async def test_a_run_ends_on_the_old_revision_while_the_new_one_takes_over(here: Cluster) -> None:
    """A new revision rolls out in mid-run: the run ends where it began, in one attempt; the next one is on the new."""
    execution = await here.client.submit(prompt=SLOW)
    record = await here.running(execution)
    old = await pod_of(record)
    await roll_out("execute")
    record = await here.ended(execution)
    assert (record.state, len(record.attempts)) == ("completed", 1)
    assert record.attempts[0].worker.startswith(old)
    assert await here.terminal_facts(execution) == ["completed"]
    following = await here.ended(await here.client.submit(prompt="Say hello"))
    assert following.state == "completed"
    assert following.attempts[0].worker.startswith(await revision("execute"))


async def test_a_drained_pod_lets_its_run_end(here: Cluster) -> None:
    """What a node drain does to a pod, an orderly delete: the run in it ends there, in one attempt."""
    execution = await here.client.submit(prompt=SLOW)
    record = await here.running(execution)
    pod = await pod_of(record)
    await kubectl("delete", "pod", pod, "--wait=false")
    record = await here.ended(execution)
    assert (record.state, len(record.attempts)) == ("completed", 1)
    assert await here.terminal_facts(execution) == ["completed"]


async def test_a_dispatcher_that_is_replaced_neither_loses_nor_doubles_a_run(here: Cluster) -> None:
    """The request that holds a run breaks off with its dispatcher; the command comes again, refused until the end."""
    execution = await here.client.submit(prompt=SLOW)
    await here.running(execution)
    await kubectl("delete", "pod", "-l", "app.kubernetes.io/name=dispatcher", "--wait=false")
    record = await here.ended(execution)
    assert (record.state, len(record.attempts)) == ("completed", 1)
    assert await here.terminal_facts(execution) == ["completed"]


async def test_the_standby_dispatches_after_the_leader_was_lost(
    here: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """The leader is killed and its pod removed, as on a lost node: the standby takes over within 15 s. A submit that
    NATS had sent to the dead one's open pull comes again after 30 s."""
    roles: dict[str, str] = {}

    async def both() -> bool:
        roles.clear()
        running = ("-l", "app.kubernetes.io/name=dispatcher", "--field-selector=status.phase=Running")
        async with httpx2.AsyncClient(trust_env=False) as http:
            for pod in await objects("pods", *running):
                if "deletionTimestamp" in pod["metadata"]:
                    continue
                with suppress(httpx2.TransportError):
                    answer = await http.get(f"http://{pod['status']['podIP']}:8080/ready")
                    roles[answer.json().get("checks", {}).get("leader", "starts")] = pod["metadata"]["name"]
        return set(roles) == {"leads", "standby"}

    await until("a leader and a standby", both, 120)
    await kubectl("exec", roles["leads"], "--", "python", "-c", "import os; os.kill(1, 9)")
    await kubectl("delete", "pod", roles["leads"], "--force", "--grace-period=0", "--wait=false")
    began = time.monotonic()
    execution = await here.client.submit(prompt="Say hello")

    async def accepted() -> bool:
        return any(event.type == "dev.ocf.task.accepted.v1" for event in await here.client.events(execution))

    await until("the submit is handled", accepted, 50)
    with capsys.disabled():
        print(f"\n    leader lost, next submit handled after {time.monotonic() - began:.1f} s")
    assert (await here.ended(execution)).state == "completed"
