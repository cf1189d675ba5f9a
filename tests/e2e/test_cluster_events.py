"""Life-cycle events outside: to a real Knative Broker and its Trigger, and signed to an HTTP address."""

from __future__ import annotations

import base64
import json
import secrets
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ocf.events.envelope import decode
from tests.integration.test_docs_run import block
from tests.support.cluster import (
    NAMESPACE,
    NEEDS_CLUSTER,
    RESTRICTED,
    Cluster,
    apply,
    built,
    cluster,
    installed_config,
    kubectl,
    until,
)

pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(600)]
RECEIVER = f"http://receiver.{NAMESPACE}.svc.cluster.local:8080"
SECRET = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
KINDS = ("Broker", "SinkBinding")
#: Keeps what is posted; GET gives it back.
SERVER = """
import base64, json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
kept = []
class Handler(BaseHTTPRequestHandler):
    def answer(self, body=b""):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        head = {name.lower(): value for name, value in self.headers.items()}
        kept.append({"path": self.path, "headers": head, "body": base64.b64encode(body).decode()})
        self.answer()
    def do_GET(self):
        self.answer(json.dumps(kept).encode())
    def log_message(self, *_): ...
ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""


def receiver(image: str) -> list[dict[str, Any]]:
    """Somebody who takes events: a pod, its service, and the Trigger that subscribes it."""
    meta = {"name": "receiver", "labels": {"app.kubernetes.io/name": "receiver"}}
    container = {
        "name": "receiver",
        "image": image,
        "command": ["python", "-c", SERVER],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}},
        "securityContext": RESTRICTED,
    }
    pod = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 1, "containers": [container]}
    open_to_all = {"podSelector": {"matchLabels": meta["labels"]}, "policyTypes": ["Ingress"], "ingress": [{}]}
    # The sinks' own policy lets out to the internet; this one is inside.
    way = {
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "dispatch-events"}},
        "policyTypes": ["Egress"],
        "egress": [
            {"to": [{"podSelector": {"matchLabels": meta["labels"]}}], "ports": [{"protocol": "TCP", "port": 8080}]}
        ],
    }
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    return [
        {**policy, "metadata": {**meta, "name": "dispatch-events-to-receiver"}, "spec": way},
        {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"selector": meta["labels"], "ports": [{"port": 8080}]},
        },
        {**policy, "metadata": meta, "spec": open_to_all},
        {
            "apiVersion": "eventing.knative.dev/v1",
            "kind": "Trigger",
            "metadata": meta,
            "spec": {
                "broker": "ocf",
                "filter": {"attributes": {"type": "dev.ocf.task.completed.v1"}},
                "subscriber": {"uri": f"{RECEIVER}/trigger"},
            },
        },
    ]


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Cluster]:
    """The cluster with knative/overlays/events and a receiver, for the time of the test."""
    if "mt-broker-ingress" not in await kubectl("get", "deployments", "-n", "knative-eventing", "-o", "name"):
        pytest.skip("needs a cluster whose Knative has a Broker (cluster.sh broker)")
    wanted = [
        one
        for one in await built("events")
        if one["kind"] in KINDS or one["metadata"]["name"] in ("dispatch-events", "sinks-to-internet")
    ]
    [dispatcher] = [one for one in wanted if one["kind"] == "Deployment"]
    container = dispatcher["spec"]["template"]["spec"]["containers"][0]
    # The installation's own configuration, with the sinks beside it, as Secret ocf-sinks would bring them.
    container["envFrom"][0] = await installed_config()
    told = {"EVENT_SINKS": f"broker:*,direct:*/ended={RECEIVER}/direct", "EVENT_SINK_SECRETS": f"direct={SECRET}"}
    meta = {"name": "ocf-sinks"}
    await apply([{"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": told}])
    others = receiver(container["image"])
    await apply([*wanted, *others])
    try:
        for what in ("broker/ocf", "trigger/receiver", "pod/receiver", "sinkbinding/dispatch-events"):
            await kubectl("wait", what, "--for=condition=Ready", "--timeout=120s", timeout=130)
        await until("the dispatcher of events knows its Broker and serves", serves, 120)
        async with cluster(tmp_path, f"e2e-{uuid.uuid4().hex[:8]}") as connected:
            yield connected
    finally:
        await kubectl("delete", "secret", "ocf-sinks", "--wait=false")
        for one in (*others, *wanted):
            await kubectl("delete", one["kind"], one["metadata"]["name"], "--wait=false", "--ignore-not-found")


async def serves() -> bool:
    """Whether the newest pod of `dispatch-events`, the one with K_SINK, is the only one, and ready."""
    found = json.loads(await kubectl("get", "pods", "-l", "app.kubernetes.io/name=dispatch-events", "-o", "json"))
    if len(found["items"]) != 1:
        return False
    pod = found["items"][0]
    environment = {one["name"] for one in pod["spec"]["containers"][0]["env"]}
    return "K_SINK" in environment and all(one["ready"] for one in pod["status"].get("containerStatuses", []))


async def posted(path: str, execution: str) -> list[dict[str, Any]]:
    """What the receiver has about an execution at a path: `headers` and `body`."""
    async with httpx2.AsyncClient(trust_env=False) as http:
        kept = (await http.get(RECEIVER)).json()
    found = [{**one, "body": base64.b64decode(one["body"])} for one in kept if one["path"] == path]
    return [one for one in found if execution.encode() in one["body"]]


async def test_an_execution_that_ends_is_told_to_a_broker_and_to_an_address(here: Cluster) -> None:
    """The Trigger's subscriber gets the completed event, and only that; the address gets it signed."""
    execution = await here.client.submit(prompt="Say hello")
    assert (await here.ended(execution)).state == "completed"
    for path in ("/trigger", "/direct"):

        async def came(path: str = path) -> bool:
            return bool(await posted(path, execution))

        await until(f"the event at {path}", came, 60)
    await here.archived(execution)
    for path in ("/trigger", "/direct"):
        [one] = await posted(path, execution)
        event = decode(one["headers"], one["body"])
        assert (event.type, json.loads(event.data)["project_id"]) == ("dev.ocf.task.completed.v1", here.project)
    verify: dict[str, Any] = {}
    exec(block("docs/how-to/receive-webhooks.md", "verify-webhook"), verify)
    [signed] = await posted("/direct", execution)
    assert verify["verify"](signed["headers"], signed["body"], [SECRET])
