"""The operations of the pages, each done twice by its own command, with executions running.

`KEYS` is the folder of the installation's keys (tests/cluster/install.sh makes it).
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.cluster import (
    NAMESPACE,
    NEEDS_CLUSTER,
    Cluster,
    cluster,
    gateway,
    kubectl,
    nats_replaced,
    objects,
    pod_of,
    pods,
    secret,
    until,
)
from tests.support.installation import JOBSINK, LOCAL, ROOT, ready, run

pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(1500)]
KEYS = os.environ.get("KEYS", str(ROOT / ".ocf/cluster"))
#: How often each operation is done.
TIMES = int(os.environ.get("OCF_E2E_TIMES", "2"))
LONG, SLOW = "Please work for long", "Please work slowly"
#: What another team might have set, as `kubectl patch` sets it.
FOREIGN = {"metadata": {"labels": {"team": "other"}, "annotations": {"example.com/team": "other"}}}


async def rotate(*arguments: str) -> str:
    return await run("scripts/knative_rotate.py", "--keys", KEYS, "--namespace", NAMESPACE, *arguments)


async def knative(kind: str, name: str) -> dict[str, Any]:
    """An object of Knative's own."""
    found: dict[str, Any] = json.loads(await kubectl("--namespace=knative-serving", "get", kind, name, "-o", "json"))
    return found


async def test_knatives_settings_are_set_twice_and_keep_what_others_have_set() -> None:
    """Step 2 of the installation: labels, annotations and keys of another team survive, ours are there, and all fields
    that Knative's own manifests made."""
    maps = ("config-defaults", "config-features", "config-network")
    kinds = (*(("configmap", name) for name in maps), ("deployment", "activator"))
    for kind, name in kinds:
        more = {"data": {"other.team": "kept"}} if kind == "configmap" else {}
        patch = json.dumps({**FOREIGN, **more})
        await kubectl("--namespace=knative-serving", "patch", kind, name, "--type=merge", "--patch", patch)
    try:
        before = [await knative(kind, name) for kind, name in kinds]
        for _ in range(TIMES):
            await run("scripts/knative_settings.sh")
            for (kind, name), earlier in zip(kinds, before, strict=True):
                now = await knative(kind, name)
                assert now["metadata"]["labels"] == earlier["metadata"]["labels"]
                assert now["metadata"]["labels"]["team"] == "other"
                assert now["metadata"]["annotations"]["example.com/team"] == "other"
                if kind == "configmap":
                    assert {**earlier["data"], **now["data"]} == now["data"]
                    assert now["data"]["other.team"] == "kept"
                else:
                    assert now["spec"]["selector"] == earlier["spec"]["selector"]
                    assert now["spec"]["template"]["spec"]["containers"]
        assert (await knative("configmap", "config-defaults"))["data"]["max-revision-timeout-seconds"] == "4800"
        assert (await knative("configmap", "config-network"))["data"]["mesh-compatibility-mode"] == "disabled"
        await kubectl(
            "--namespace=knative-serving", "rollout", "status", "deployment/activator", "--timeout=120s", timeout=130
        )
    finally:
        gone: dict[str, Any] = {"metadata": {"labels": {"team": None}, "annotations": {"example.com/team": None}}}
        for kind, name in kinds:
            more = {"data": {"other.team": None}} if kind == "configmap" else {}
            patch = json.dumps({**gone, **more})
            await kubectl("--namespace=knative-serving", "patch", kind, name, "--type=merge", "--patch", patch)


async def test_the_encryption_key_is_rotated_twice_under_sealed_tasks(here: Cluster) -> None:
    """Tasks whose key the gateway seals keep coming; every one completes, whatever key it was sealed under."""
    model = {
        "provider": "local",
        "model": "scripted",
        "api_endpoint": "http://model:8080/v1",
        "api_key": (await secret("ocf-offline"))["OCF_OFFLINE_KEY"],
    }
    task = {"prompt": "Say hello", "project_id": here.project, "model_config": model}
    first = (await secret("ocf-encryption"))["ENCRYPTION_KEY"]
    accepted: list[str] = []

    async def submit_for_ever(http: httpx2.AsyncClient) -> None:
        while True:
            with suppress(httpx2.TransportError):  # the gateway is rolled as well; what it accepted counts
                answer = await http.post("/tasks/execute", json=task)
                if answer.status_code == 202:
                    accepted.append(answer.json()["execution_id"])
            await asyncio.sleep(20)

    async with gateway(here) as http:
        submitting = asyncio.create_task(submit_for_ever(http))
        try:
            for _ in range(TIMES):
                await rotate("encryption")
            now = await secret("ocf-encryption")
            there = len(accepted)

            async def sealed_anew() -> bool:
                return len(accepted) >= there + 2

            await until("tasks after the rotations", sealed_anew, 120)
        finally:
            submitting.cancel()
    assert now["ENCRYPTION_KEY"] != first
    assert first in now["ENCRYPTION_KEYS_RETIRED"]
    records = [await here.ended(execution) for execution in accepted]
    assert {(record.state, record.reason) for record in records} == {("completed", None)}
    assert len(records) >= 2 * TIMES


async def test_nats_is_rotated_twice_under_a_run(here: Cluster, tmp_path: Path) -> None:
    """Signing keys and users: each run ends in its one attempt, without a gap; the earlier credentials are refused; the
    streams are the same."""
    mine = tmp_path / "backend.creds"
    for _ in range(TIMES):
        old = tmp_path / f"old-{time.time_ns()}.creds"
        old.write_text(mine.read_text())
        execution = await here.client.submit(prompt=LONG)
        await here.running(execution)
        said = await rotate("nats")
        assert "every pod has the new credentials" in said
        mine.write_text((await secret("ocf-backend"))["backend.creds"])  # the backend's part
        await rotate("nats", "--finish")
        await here.completed_once(execution)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(15), cluster_with(old):
                pass
    await here.archived(execution)


@asynccontextmanager
async def cluster_with(creds: Path) -> AsyncIterator[None]:
    """A connection to the cluster's NATS with these credentials."""
    from ocf.events.client import connect

    url = os.environ.get("OCF_NATS_URL", f"nats://nats.{NAMESPACE}.svc.cluster.local:4222")
    async with connect(url, creds=creds):
        yield


async def inventory() -> set[tuple[str, str]]:
    """Kind and name of everything that an overlay may leave in the namespace."""
    kinds = ("ksvc", "jobsink", "deployment", "configmap", "job", "poddisruptionbudget", "networkpolicy")
    found = await objects(",".join(kinds), "-l", "app.kubernetes.io/part-of=ocf")
    # Those that Knative makes of a revision go with it.
    own = [one for one in found if one["kind"] != "Deployment" or not one["metadata"].get("ownerReferences")]
    return {(one["kind"], one["metadata"]["name"]) for one in own if one["metadata"]["name"] != "setup"}


async def test_from_local_to_jobsink_and_back_twice_leaves_nothing(here: Cluster) -> None:
    """With a run in flight at every change: it ends once, completed, where it began."""
    await run("scripts/knative_apply.py", LOCAL)
    before = await inventory()
    try:
        for _ in range(TIMES):
            in_service = await here.client.submit(prompt=SLOW)
            await here.running(in_service)
            await run("scripts/knative_apply.py", JOBSINK)
            assert ("JobSink", "execute") in await inventory()
            assert ("Service", "execute") not in await inventory()
            await here.completed_once(in_service)
            await ready()
            in_job = await here.client.submit(prompt=SLOW)
            record = await here.running(in_job)
            assert record.attempts[0].worker.startswith("execute")
            await run("scripts/knative_apply.py", LOCAL)
            await ready()
            record = await here.ended(in_job)
            assert record.state == "completed"
            assert await here.terminal_facts(in_job) == ["completed"]

            async def as_before() -> bool:
                return await inventory() - before == set()

            await until("nothing is left of the overlay", as_before, 120)
    finally:
        # Whatever breaks off in the middle: the next test finds the Service.
        await run("scripts/knative_apply.py", LOCAL)
    assert await inventory() == before


async def test_uninstalled_and_installed_again_twice_with_a_run_in_flight(tmp_path: Path) -> None:
    """The run is cancelled and archived, no pod is left within minutes, the claims stay with every record, and so
    does a PriorityClass that another namespace uses. The next installation continues."""
    other = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "other-team", "namespace": "default"},
        "spec": {
            "priorityClassName": "ocf-control",
            "containers": [{"name": "main", "image": "dev.local/ocf-nats:test", "command": ["sleep", "3600"]}],
        },
    }
    await kubectl("--namespace=default", "apply", "-f", "-", given=json.dumps(other))
    try:
        for number in range(TIMES):
            async with cluster(tmp_path, f"uninstall-{time.time_ns()}") as here:
                execution = await here.client.submit(prompt=LONG)
                await here.running(execution)
                started = time.monotonic()
                said = await run("scripts/knative_uninstall.py", LOCAL, "--cancel")
                print(f"uninstall {number}: {time.monotonic() - started:.0f} s")
                assert "stays: a pod of another namespace uses it" in said
                assert not await objects("pods", "-l", "app.kubernetes.io/part-of=ocf")
                claims = await objects("persistentvolumeclaims")
                kept = {one["metadata"]["name"]: one["status"]["phase"] for one in claims}
                assert kept == {"data-nats-0": "Bound", "data-postgres-0": "Bound"}
                assert await secret("ocf-nats")
                classes = await objects("priorityclasses")
                assert {"ocf-control"} == {
                    one["metadata"]["name"] for one in classes if "ocf" in one["metadata"]["name"]
                }
                again = await run("scripts/knative_uninstall.py", LOCAL, "--cancel")
                assert "Traceback" not in again
                await run("scripts/knative_apply.py", LOCAL)
                await ready()
                record = await here.ended(execution)
                assert (record.state, record.archived) == ("cancelled", True)
                assert (await here.ended(await here.client.submit(prompt="Say hello"))).state == "completed"
    finally:
        await kubectl("--namespace=default", "delete", "pod", "other-team", "--grace-period=0", "--force")


async def test_without_nats_pods_live_and_a_stopping_worker_leaves_twice(here: Cluster) -> None:
    """NATS is away for more than two minutes. A dispatcher that starts meanwhile lives and is not ready; a worker in
    mid-run goes on, and when its pod is deleted, ends its agent and leaves within three minutes, not in 75. After the
    outage all of it is ready without a restart, and the execution is `worker_lost`."""
    for _ in range(TIMES):
        execution = await here.client.submit(prompt=LONG)
        pod = await pod_of(await here.running(execution))
        before = {one["metadata"]["uid"] for one in await objects("pods", "-l", "app.kubernetes.io/name=nats")}
        await kubectl("scale", "statefulset/nats", "--replicas=0")
        try:
            await until("NATS is gone", _no_nats, 90)
            await kubectl("delete", "pod", "-l", "app.kubernetes.io/name=dispatcher", "--wait=false")
            await kubectl("delete", "pod", pod, "--wait=false")
            started = time.monotonic()

            async def left(pod: str = pod) -> bool:
                return pod not in await pods("execute")

            took = await until("the worker has left", left, 260)
            print(f"a worker without NATS left after {took:.0f} s")
            assert took > 100
            dispatchers = [
                one
                for one in await objects("pods", "-l", "app.kubernetes.io/name=dispatcher")
                if "deletionTimestamp" not in one["metadata"]
            ]
            assert time.monotonic() - started > 100
            states = [each for one in dispatchers for each in one["status"]["containerStatuses"]]
            found = [(one["restartCount"], one["started"], one["ready"]) for one in states]
            assert found == [(0, True, False)] * 2
        finally:
            await kubectl("scale", "statefulset/nats", "--replicas=1")
        await nats_replaced(before)
        record = await here.ended(execution)
        assert (record.state, record.reason) == ("failed", "worker_lost")

        async def back() -> bool:
            found = await objects("pods", "-l", "app.kubernetes.io/component=dispatcher")
            return all(one["ready"] for each in found for one in each["status"].get("containerStatuses", []))

        await until("every dispatcher is ready", back, 90)
        assert (await here.ended(await here.client.submit(prompt="Say hello"))).state == "completed"


async def _no_nats() -> bool:
    return not await objects("pods", "-l", "app.kubernetes.io/name=nats")
