"""A cluster that the system is installed in (knative/overlays/local), as the tests see it: kubectl, NATS and S3."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
import yaml

from ocf.events.adapters.s3 import S3Config, S3Store
from ocf.events.client import Client
from ocf.events.client import connect as connect_client
from ocf.events.errors import NotYetKnown, Unavailable
from ocf.events.execution_record import Record
from tests.support.hostile import SCRIPTS
from tests.support.redteam import fixtures

SCRIPT = Path(__file__).parents[1] / "e2e/data/cluster-model.json"
NAMESPACE = os.environ.get("OCF_NAMESPACE", "ocf")
#: The marks of every test that needs a cluster.
NEEDS_CLUSTER = (
    pytest.mark.cluster,
    pytest.mark.skipif(
        not os.environ.get("KUBECONFIG"), reason="needs a cluster: KUBECONFIG is not set (make cluster)"
    ),
)


#: The security context of a test's own container: what Pod Security's `restricted` asks for.
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


class KubectlFailed(AssertionError):
    """kubectl ended with another status than 0."""


async def kubectl(*arguments: str, given: str | None = None, timeout: float = 60.0) -> str:
    """What `kubectl ARGUMENTS` says, in the installation's namespace."""
    process = await asyncio.create_subprocess_exec(
        "kubectl",
        "--namespace",
        NAMESPACE,
        *arguments,
        stdin=asyncio.subprocess.PIPE if given is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(given.encode() if given else None), timeout)
    if process.returncode:
        raise KubectlFailed(f"kubectl {' '.join(arguments)}: {err.decode().strip()}")
    return out.decode()


async def objects(kind: str, *arguments: str) -> list[dict[str, Any]]:
    """The objects of a kind."""
    found: list[dict[str, Any]] = json.loads(await kubectl("get", kind, "-o", "json", *arguments))["items"]
    return found


async def pods(function: str, *, ending: bool = True) -> list[str]:
    """Names of a function's pods; without `ending`, those that are being deleted are left out."""
    found = await objects("pods", "-l", f"serving.knative.dev/service={function}")
    return [pod["metadata"]["name"] for pod in found if ending or "deletionTimestamp" not in pod["metadata"]]


async def until(
    what: str, condition: Callable[[], Awaitable[bool]], timeout: float = 120.0, every: float = 0.5
) -> float:
    """Wait until it is so; returns the seconds it took. Fails with `what`."""
    started = time.monotonic()
    while not await condition():
        if time.monotonic() - started > timeout:
            raise AssertionError(f"after {timeout:.0f} s still not: {what}")
        await asyncio.sleep(every)
    return time.monotonic() - started


async def nats_pods() -> set[str]:
    """The identities of NATS's pods."""
    return {pod["metadata"]["uid"] for pod in await objects("pods", "-l", "app.kubernetes.io/name=nats")}


async def nats_replaced(before: set[str]) -> None:
    """Wait until other pods of NATS than these are there, and all ready."""

    async def replaced() -> bool:
        there = await objects("pods", "-l", "app.kubernetes.io/name=nats")
        return bool(there) and all(pod["metadata"]["uid"] not in before and _ready(pod) for pod in there)

    await until("other pods of NATS", replaced, 180)


async def restart_nats() -> None:
    """Replace the NATS pod. NATS in three replicas takes seconds; one alone is away until its pod is back."""
    before = await nats_pods()
    await kubectl("delete", "pod", "nats-0", "--grace-period=1", timeout=90)
    await nats_replaced(before)


def _ready(pod: dict[str, Any]) -> bool:
    return all(one["ready"] for one in pod["status"].get("containerStatuses", [{"ready": False}]))


async def drain_under(pod: str) -> asyncio.Task[str]:
    """`kubectl drain` the node of a pod: evicts all of the system that may move, NATS and dispatchers too.

    Returns once NATS is back, with the drain still under way: it ends with the pod. With one node the rest can come
    back only there: the node takes pods again as soon as all are told to go. What holds the archive in the local
    overlay stays: it keeps it in the pod.
    """
    [node] = {one["spec"]["nodeName"] for one in await objects("pods", "--field-selector", f"metadata.name={pod}")}
    before = await nats_pods()
    movable = "app.kubernetes.io/part-of=ocf,app.kubernetes.io/name notin (s3)"
    options = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s", "--pod-selector", movable)
    draining = asyncio.create_task(kubectl("drain", node, *options, timeout=320))
    try:

        async def told() -> bool:
            ours = await objects("pods", "-l", movable)
            there = [one for one in ours if one["metadata"]["uid"] in before or one["metadata"]["name"] == pod]
            return all("deletionTimestamp" in one["metadata"] for one in there)

        await until("NATS and the run's pod are told to go", told, 60)
    finally:
        await kubectl("uncordon", node)
    await nats_replaced(before)
    return draining


async def at_zero() -> bool:
    """Return whether neither the functions nor the gateway have a pod, an ending one included."""
    return not await objects("pods", "-l", "serving.knative.dev/service")


async def built(overlay: str) -> list[dict[str, Any]]:
    """The objects of an overlay of knative/overlays."""
    folder = Path(__file__).parents[2] / "knative/overlays" / overlay
    return [one for one in yaml.safe_load_all(await kubectl("kustomize", str(folder))) if one]


async def installed_config() -> dict[str, Any]:
    """The `envFrom` entry of the configuration that is installed: its name has a digest."""
    found = json.loads(await kubectl("get", "deployment", "dispatcher", "-o", "json"))
    entry: dict[str, Any] = found["spec"]["template"]["spec"]["containers"][0]["envFrom"][0]
    return entry


async def apply(manifests: list[dict[str, Any]]) -> None:
    """Create or change them. Knative's webhooks may be away for a while on a crowded machine: it is tried again."""
    refused: list[KubectlFailed] = []

    async def applied() -> bool:
        try:
            await kubectl("apply", "-f", "-", given=yaml.safe_dump_all(manifests), timeout=90)
        except KubectlFailed as error:
            refused[:] = [error]
            if "failed calling webhook" in str(error):
                return False
            raise
        return True

    try:
        await until("applied", applied, 120, every=2)
    except AssertionError:
        raise refused[0] from None


async def revision(service: str) -> str:
    """The newest revision of a service that is ready."""
    path = "jsonpath={.status.latestReadyRevisionName}"
    return await kubectl("get", "ksvc", service, "-o", path)


async def settled(service: str) -> bool:
    """Whether all of a service is ready, for what its specification says now."""
    return service_ready(json.loads(await kubectl("get", "ksvc", service, "-o", "json")))


def service_ready(found: dict[str, Any]) -> bool:
    """Whether all of a service, as kubectl shows it, is ready for what its specification says now."""
    status = found.get("status", {})
    new, conditions = status.get("observedGeneration") == found["metadata"]["generation"], status.get("conditions", [])
    return new and bool(conditions) and all(condition["status"] == "True" for condition in conditions)


async def roll_out(service: str, containers: list[dict[str, Any]] | None = None, **annotations: str) -> str:
    """A new revision of a service, ready, with the traffic that its specification gives it; returns its name."""
    before = await revision(service)
    template: dict[str, Any] = {"metadata": {"annotations": {"e2e": uuid.uuid4().hex, **annotations}}}
    if containers is not None:
        template["spec"] = {"containers": containers}
    change = {"spec": {"template": template}}
    await kubectl("patch", "ksvc", service, "--type=merge", "--patch", json.dumps(change))

    async def rolled() -> bool:
        return await settled(service) and await revision(service) != before

    await until(f"a new revision of {service}", rolled, 180)
    return await revision(service)


@asynccontextmanager
async def scaled(service: str, number: int) -> AsyncIterator[None]:
    """So many pods of a service, not more and not less, until the block ends."""
    scale = ("autoscaling.knative.dev/min-scale", "autoscaling.knative.dev/max-scale")
    found = json.loads(await kubectl("get", "ksvc", service, "-o", "json"))
    before = found["spec"]["template"]["metadata"]["annotations"]
    await roll_out(service, **dict.fromkeys(scale, str(number)))

    async def there() -> bool:
        return len(await pods(service, ending=False)) == number

    try:
        await until(f"{number} pods of {service}", there, 180)
        yield
    finally:
        await roll_out(service, **{name: before[name] for name in scale})


@asynccontextmanager
async def with_variable(service: str, name: str, value: str) -> AsyncIterator[None]:
    """A variable of a service's first container, until the block ends."""
    found = json.loads(await kubectl("get", "ksvc", service, "-o", "json"))
    first, *others = found["spec"]["template"]["spec"]["containers"]
    given = [*first.get("env", []), {"name": name, "value": value}]
    await roll_out(service, [{**first, "env": given}, *others])
    try:
        yield
    finally:
        await roll_out(service, [first, *others])


async def secret(name: str) -> dict[str, str]:
    """A secret's fields, decoded."""
    found = json.loads(await kubectl("get", "secret", name, "-o", "json"))
    return {field: base64.b64decode(value).decode() for field, value in found["data"].items()}


async def secret_values() -> set[str]:
    """Every key that execute holds and an agent must not see."""
    found = [await secret(name) for name in ("ocf-s3", "ocf-encryption", "ocf-dispatch", "ocf-offline")]
    return {value for fields in found for value in fields.values() if len(value) > 8}


async def pod_of(record: Record) -> str:
    """The pod of execute that the newest attempt runs in: its host name begins the worker's."""
    [name] = [name for name in await pods("execute") if record.attempts[-1].worker.startswith(name)]
    return name


async def teach_model() -> None:
    """Give the offline scripted model the tests' own scripts, ahead of its demo."""
    name, wanted = "ocf-model-script", {"e2e.json": SCRIPT.read_text(), "redteam.json": fixtures(SCRIPTS)}
    found = await objects("configmaps", "--field-selector", f"metadata.name={name}")
    if found and found[0].get("data") == wanted:
        return
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": wanted}
    await kubectl("apply", "-f", "-", given=json.dumps(manifest))
    await kubectl("rollout", "restart", "deployment/model")
    await kubectl("rollout", "status", "deployment/model", "--timeout=90s", timeout=100)


@dataclass(frozen=True)
class Cluster:
    """Connections to the system in the cluster; `project` is the test's own."""

    client: Client
    store: S3Store
    project: str

    async def ended(self, execution: str, timeout: float = 300.0) -> Record:
        """Its record, once it has ended."""
        record = await self._when(execution, lambda record: record.terminal, "ended", timeout)
        return record

    async def running(self, execution: str, *, said: int = 3, timeout: float = 240.0) -> Record:
        """Its record, once the agent has said something."""
        return await self._when(
            execution, lambda r: r.state == "running" and r.last_sequence >= said, "in mid-run", timeout
        )

    async def archived(self, execution: str, timeout: float = 90.0) -> Record:
        """Its record, once its archive is whole."""
        return await self._when(execution, lambda record: record.archived, "archived", timeout)

    async def _when(self, execution: str, wanted: Callable[[Record], bool], what: str, timeout: float) -> Record:
        seen: list[Record] = []

        async def look() -> bool:
            try:
                seen[:] = [await self.client.status(execution)]
            except (NotYetKnown, Unavailable):  # NATS may be away: some tests are about that
                return False
            # It will not run any more, so it cannot come to be what is waited for (but archived).
            return wanted(seen[0]) or (seen[0].terminal and what == "in mid-run")

        try:
            await until(what, look, timeout, every=0.2)
        except AssertionError as error:
            raise AssertionError(f"{execution}: {error}; its record: {seen}") from None
        if not wanted(seen[0]):
            raise AssertionError(f"{execution} has ended, and should be {what}: {seen[0]}")
        return seen[0]

    async def terminal_facts(self, execution: str) -> list[str]:
        """The facts that ended it, of which there must be one."""
        endings = ("completed", "failed", "cancelled", "timed_out")
        found = [event.type.split(".")[3] for event in await self.client.events(execution)]
        return [verb for verb in found if verb in endings]

    async def completed_once(self, execution: str) -> Record:
        """Its record; it must end once, as completed, in its one attempt, and no chunk of it is missing."""
        record = await self.ended(execution)
        assert (record.state, len(record.attempts)) == ("completed", 1)
        assert await self.terminal_facts(execution) == ["completed"]
        assert [chunk.seq async for chunk in self.client.watch(execution)] == list(range(1, record.last_sequence + 1))
        return record


@asynccontextmanager
async def cluster(folder: Path, project: str) -> AsyncIterator[Cluster]:
    """Connect with the installation's own backend credentials. `folder` is for files of the test's own.

    `OCF_NATS_URL` and `OCF_S3_URL` say where they are reached; by default at their names inside the cluster.
    """
    await teach_model()
    creds = folder / "backend.creds"
    creds.write_text((await secret("ocf-backend"))["backend.creds"])
    keys = await secret("ocf-s3")
    store = S3Store(
        S3Config(
            bucket="ocf",
            endpoint_url=os.environ.get("OCF_S3_URL", f"http://s3.{NAMESPACE}.svc.cluster.local:8333"),
            access_key=keys["AWS_ACCESS_KEY_ID"],
            secret_key=keys["AWS_SECRET_ACCESS_KEY"],
            region="us-east-1",
        )
    )
    nats = os.environ.get("OCF_NATS_URL", f"nats://nats.{NAMESPACE}.svc.cluster.local:4222")
    try:
        async with connect_client(nats, creds=creds, project=project, store=store) as client:
            yield Cluster(client, store, project)
    finally:
        store.close()


async def gateway_entry() -> tuple[str, dict[str, str]]:
    """Where requests to the gateway go from outside, and the host they name: right for every networking layer."""
    if url := os.environ.get("OCF_GATEWAY_URL"):
        return url, {}
    path = "jsonpath={.status.publicLoadBalancer.ingress[0].domainInternal}"
    where = await kubectl("get", "kingress", "gateway", "-o", path)
    host = (await kubectl("get", "ksvc", "gateway", "-o", "jsonpath={.status.url}")).removeprefix("http://")
    return f"http://{where}", {"Host": host}


@asynccontextmanager
async def gateway(here: Cluster) -> AsyncIterator[httpx2.AsyncClient]:
    """The gateway's API, as a caller of the test's project."""
    key = (await secret("ocf-gateway"))["GATEWAY_JWT_SECRET"]
    token = jwt.encode({"sub": "e2e", "projects": [here.project], "exp": int(time.time()) + 3600}, key, "HS256")
    base, headers = await gateway_entry()
    headers["Authorization"] = f"Bearer {token}"
    async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=90, trust_env=False) as http:
        yield http
