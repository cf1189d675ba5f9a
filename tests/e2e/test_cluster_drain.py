"""Nodes and revisions are replaced under running executions: each ends once, in the right state."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.cluster import (
    NEEDS_CLUSTER,
    Cluster,
    drain_under,
    kubectl,
    pods,
    revision,
    roll_out,
    settled,
    until,
)

pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(900)]
SLOW = "Please work slowly"


async def test_a_run_outlives_the_drain_of_its_node(here: Cluster) -> None:
    """In mid-run: the pod of the run goes when the run has ended, budgets are kept, and the execution ends once, in its
    one attempt."""
    execution = await here.client.submit(prompt=SLOW)
    record = await here.running(execution)
    [pod] = [name for name in await pods("execute") if record.attempts[0].worker.startswith(name)]
    draining = await drain_under(pod)
    record = await here.completed_once(execution)
    assert record.attempts[0].worker.startswith(pod)
    assert "evicted" in await draining
    after = await here.ended(await here.client.submit(prompt="Say hello"))
    assert after.state == "completed"


async def split(service: str, traffic: list[dict[str, object]]) -> None:
    """Divide a service's requests, and wait until it is so."""
    await kubectl("patch", "ksvc", service, "--type=merge", "--patch", json.dumps({"spec": {"traffic": traffic}}))
    await until(f"the traffic of {service}", lambda: settled(service), 120)


async def test_traffic_is_split_and_rolled_back_under_running_executions(here: Cluster) -> None:
    """Half of the requests to a new revision, then all back to the old one: nothing is lost, nothing runs twice, runs
    end where they began, and what comes after the roll-back is on the old revision."""
    old = await revision("execute")
    try:
        await split("execute", [{"revisionName": old, "percent": 100}])
        first = [await here.client.submit(prompt=SLOW) for _ in range(2)]
        await asyncio.gather(*(here.running(execution) for execution in first))
        new = await roll_out("execute")
        await split("execute", [{"revisionName": old, "percent": 50}, {"revisionName": new, "percent": 50}])
        divided = [await here.client.submit(prompt=SLOW) for _ in range(6)]
        await asyncio.gather(*(here.running(execution, timeout=240) for execution in divided))
        await split("execute", [{"revisionName": old, "percent": 100}])
        last = [await here.client.submit(prompt="Say hello") for _ in range(2)]
        records = [await here.ended(execution, timeout=300) for execution in (*first, *divided, *last)]
    finally:
        await split("execute", [{"latestRevision": True, "percent": 100}])
    assert [(record.state, len(record.attempts)) for record in records] == [("completed", 1)] * 10
    workers = [record.attempts[0].worker for record in records]
    assert all(worker.startswith(old) for worker in (*workers[:2], *workers[8:]))
    assert {worker.startswith(new) for worker in workers[2:8]} == {True, False}
    for execution in (*first, *divided, *last):
        assert await here.terminal_facts(execution) == ["completed"]
