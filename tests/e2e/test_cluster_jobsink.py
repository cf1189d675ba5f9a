"""Executions as Jobs (knative/overlays/jobsink): the same run, once per Job, without Knative Serving in between."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cluster import NEEDS_CLUSTER, Cluster, cluster, kubectl, objects, until

pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(600)]
OVERLAY = Path(__file__).parents[2] / "knative/overlays/jobsink"
SERVICE = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "execute"}
JOB_SINK = {"apiVersion": "sinks.knative.dev/v1alpha1", "kind": "JobSink", "name": "execute"}


async def dispatch_to(ref: dict[str, str]) -> None:
    """Point the dispatcher of execute there, and wait until its pods are."""
    patch = json.dumps({"spec": {"sink": {"ref": ref}}})
    await kubectl("patch", "containersource", "dispatch-execute", "--type=merge", "--patch", patch)
    wanted = "job-sink." if ref["kind"] == "JobSink" else "execute."

    async def there() -> bool:
        found = await objects("pods", "-l", "app.kubernetes.io/name=dispatch-execute")
        sinks = [_sink(pod) for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return len(sinks) == 1 and wanted in sinks[0]

    await until(f"a dispatcher that sends to {ref['kind']}", there, 120)


def _sink(pod: dict[str, Any]) -> str:
    environment = pod["spec"]["containers"][0].get("env", [])
    return next((str(one.get("value")) for one in environment if one["name"] == "K_SINK"), "")


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Cluster]:
    """The cluster with executions as Jobs, for the time of the test."""
    built = list(yaml.safe_load_all(await kubectl("kustomize", str(OVERLAY))))
    [sink] = [one for one in built if one["kind"] == "JobSink"]
    [settings] = [one for one in built if one["kind"] == "ConfigMap"]
    await kubectl("apply", "-f", "-", given=yaml.safe_dump_all([settings, sink]))
    try:
        await kubectl("wait", "jobsink/execute", "--for=condition=Ready", "--timeout=60s", timeout=70)
        await dispatch_to(JOB_SINK)
        async with cluster(tmp_path, f"e2e-{uuid.uuid4().hex[:8]}") as connected:
            yield connected
    finally:
        await dispatch_to(SERVICE)
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
    execution = await here.client.submit(prompt="Please work slowly")
    await here.running(execution)
    await here.client.cancel(execution, why="e2e")
    assert (await here.ended(execution, timeout=30)).state == "cancelled"
    assert await here.terminal_facts(execution) == ["cancelled"]
