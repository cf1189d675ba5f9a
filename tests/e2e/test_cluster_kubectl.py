"""Whoever has kubectl alone finds out why an execution failed (knative/overlays/kubernetes-events)."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.cluster import (
    NEEDS_CLUSTER,
    Cluster,
    apply,
    built,
    cluster,
    installed_config,
    kubectl,
    pod_of,
    until,
)

pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(600)]
NAME = "dispatch-kubernetes"


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Cluster]:
    """The cluster with the component, for the time of the test."""
    wanted = [one for one in await built("kubernetes-events") if one["metadata"]["name"].startswith(NAME)]
    [dispatcher] = [one for one in wanted if one["kind"] == "Deployment"]
    # The installation's own configuration.
    dispatcher["spec"]["template"]["spec"]["containers"][0]["envFrom"][0] = await installed_config()
    await apply(wanted)
    try:
        await kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=120s", timeout=130)
        async with cluster(tmp_path, f"e2e-{uuid.uuid4().hex[:8]}") as connected:
            yield connected
    finally:
        for one in wanted:
            await kubectl("delete", one["kind"], one["metadata"]["name"], "--wait=false", "--ignore-not-found")


async def test_a_failed_execution_is_an_event_of_the_service(here: Cluster) -> None:
    """Its pod was killed: `kubectl events --for ksvc/execute` says WorkerLost, with execution and project. One that
    completes says nothing. No other pod of the installation has a token."""
    fine = await here.client.submit(prompt="Say hello")
    assert (await here.ended(fine)).state == "completed"
    lost = await here.client.submit(prompt="Please work slowly")
    await kubectl("delete", "pod", await pod_of(await here.running(lost)), "--force", "--grace-period=0")
    assert (await here.ended(lost)).reason == "worker_lost"
    said: list[str] = []

    async def there() -> bool:
        said[:] = (await kubectl("events", "--for", "service.serving.knative.dev/execute")).splitlines()
        return any(lost in line for line in said)

    await until("the Event", there, 60)
    [line] = [line for line in said if lost in line]
    assert "WorkerLost" in line
    assert here.project in line
    assert not [line for line in said if fine in line]
    found = json.loads(await kubectl("get", "pods", "-l", "app.kubernetes.io/part-of=ocf", "-o", "json"))["items"]
    with_token = {
        pod["metadata"]["labels"]["app.kubernetes.io/name"]
        for pod in found
        for volume in pod["spec"].get("volumes", [])
        if any("serviceAccountToken" in source for source in volume.get("projected", {}).get("sources", []))
    }
    assert with_token == {NAME}
