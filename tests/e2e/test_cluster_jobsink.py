"""Executions as Jobs (knative/overlays/jobsink): the same run, once per Job, without Knative Serving in between."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from ocf.events.execution_record import Record
from tests.support.cluster import (
    NEEDS_CLUSTER,
    Cluster,
    built,
    cluster,
    drain_under,
    kubectl,
    objects,
    restart_nats,
)

pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(600)]
OVERLAY = Path(__file__).parents[2] / "knative/overlays/jobsink"
SLOW = "Please work slowly"


async def dispatch_as(overlay: str) -> None:
    """Let the dispatcher send executions where it does with an overlay, and wait until it does."""
    [deployment] = [one for one in await built(overlay) if one["metadata"]["name"] == "dispatcher"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    told = [
        f"{one['name']}={one['value']}" for one in container["env"] if one["name"] in ("DISPATCH_WAKE", "FUNCTION_URLS")
    ]
    await kubectl("set", "env", "deployment/dispatcher", *told)
    await kubectl("rollout", "status", "deployment/dispatcher", "--timeout=120s", timeout=130)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Cluster]:
    """The cluster with executions as Jobs, for the time of the test."""
    wanted = await built("jobsink")
    [sink] = [one for one in wanted if one["kind"] == "JobSink"]
    [settings] = [one for one in wanted if one["kind"] == "ConfigMap"]
    await kubectl("apply", "-f", "-", given=yaml.safe_dump_all([settings, sink]))
    try:
        await kubectl("wait", "jobsink/execute", "--for=condition=Ready", "--timeout=60s", timeout=70)
        await dispatch_as("jobsink")
        async with cluster(tmp_path, f"e2e-{uuid.uuid4().hex[:8]}") as connected:
            yield connected
    finally:
        await dispatch_as("local")
        await kubectl("delete", "jobsink", "execute", "--wait=false")


async def test_an_execution_is_a_job(here: Cluster) -> None:
    """JobSink makes a Job of the event; it runs what JetStream has of the command, completes, and is archived."""
    execution = await here.client.submit(prompt="Say hello")
    record = await here.ended(execution)
    assert (record.state, record.message) == ("completed", None)
    jobs = [job["metadata"]["name"] for job in await objects("jobs")]
    assert any(record.attempts[0].worker.startswith(name) for name in jobs)
    await here.archived(execution)


async def test_a_job_hears_a_cancel(here: Cluster) -> None:
    """No request could reach it; NATS does."""
    execution = await here.client.submit(prompt=SLOW)
    await here.running(execution)
    await here.client.cancel(execution, why="e2e")
    assert (await here.ended(execution, timeout=30)).state == "cancelled"
    assert await here.terminal_facts(execution) == ["cancelled"]


async def pod_of(record: Record) -> str:
    """The pod that the newest attempt runs in."""
    found = await objects("pods", "-l", "app.kubernetes.io/name=execute-job")
    names = [pod["metadata"]["name"] for pod in found]
    [name] = [name for name in names if record.attempts[-1].worker.startswith(name)]
    return name


@pytest.mark.parametrize(("attempts", "state"), [(3, "completed"), (1, "failed")])
async def test_a_job_whose_pod_is_killed_is_tried_again_as_often_as_allowed(
    here: Cluster, attempts: int, state: str
) -> None:
    """The Job's next pod waits for the lease to run out, then begins the next attempt, or ends it as lost: once."""
    execution = await here.client.submit(prompt=SLOW, retry={"max_attempts": attempts})
    pod = await pod_of(await here.running(execution))
    await kubectl("delete", "pod", pod, "--force", "--grace-period=0")
    record = await here.ended(execution)
    assert record.state == state, record
    assert [attempt.ended for attempt in record.attempts] == ["worker_lost", "completed"][:attempts]
    assert await here.terminal_facts(execution) == [state]


async def test_a_job_outlives_a_restart_of_nats(here: Cluster) -> None:
    """As in the Service: it goes on, without a gap."""
    execution = await here.client.submit(prompt=SLOW)
    await here.running(execution)
    await restart_nats()
    await here.completed_once(execution)


async def test_a_job_ends_as_it_began_while_its_template_changes(here: Cluster) -> None:
    """What a new revision is to a Service: the run ends in its pod, the next one is made from the new template."""
    execution = await here.client.submit(prompt=SLOW)
    pod = await pod_of(await here.running(execution))
    path = "/spec/job/spec/template/metadata/labels/e2e"
    patch = [{"op": "add", "path": path, "value": "second"}]
    await kubectl("patch", "jobsink", "execute", "--type=json", "--patch", json.dumps(patch))
    record = await here.completed_once(execution)
    assert record.attempts[0].worker.startswith(pod)
    following = await here.client.submit(prompt=SLOW)
    pod = await pod_of(await here.running(following))
    assert pod in {one["metadata"]["name"] for one in await objects("pods", "-l", "e2e=second")}
    assert (await here.ended(following)).state == "completed"


async def test_a_job_outlives_the_drain_of_its_node(here: Cluster) -> None:
    """Its pod goes when the run has ended."""
    execution = await here.client.submit(prompt=SLOW)
    pod = await pod_of(await here.running(execution))
    draining = await drain_under(pod)
    record = await here.completed_once(execution)
    assert record.attempts[0].worker.startswith(pod)
    assert "evicted" in await draining


async def test_the_jobs_of_a_session_run_one_after_the_other(here: Cluster) -> None:
    """JobSink makes both at once; the second waits in its pod, is not lost, and sees what the first has left."""
    session = await here.client.sessions.create()
    executions = [await here.client.submit(prompt=SLOW, session_id=session) for _ in range(2)]
    first, second = [await here.ended(execution) for execution in executions]
    assert (first.state, second.state) == ("completed", "completed")
    assert first.ended_at is not None
    assert second.started_at is not None
    assert first.ended_at <= second.started_at
    for execution in executions:
        assert await here.terminal_facts(execution) == ["completed"]
