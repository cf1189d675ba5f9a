"""What a pod of another namespace reaches of the system, with no policy in its way: the test cluster enforces none."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.cluster import NAMESPACE, NEEDS_CLUSTER, kubectl, objects

pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(600)]
STRANGER = ("--namespace=default",)
#: Prints for each address what a connection, or a request to its path, gets.
ASK = """
import json, socket, sys, urllib.error, urllib.request
found = {}
for name, (host, port, path) in json.loads(sys.argv[1]).items():
    try:
        if path is None:
            socket.create_connection((host, port), timeout=5).close()
            found[name] = "open"
        else:
            with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=90) as answer:
                found[name] = answer.status
    except urllib.error.HTTPError as error:
        found[name] = error.code
    except OSError as error:
        found[name] = "refused" if isinstance(getattr(error, "reason", error), ConnectionRefusedError) else repr(error)
print(json.dumps(found))
"""


@pytest.fixture
async def stranger() -> AsyncIterator[str]:
    """A pod in another namespace that has Python, and nothing of ours."""
    [image] = {
        one["spec"]["template"]["spec"]["containers"][0]["image"]
        for one in await objects("ksvc", "--field-selector", "metadata.name=submit")
    }
    container = {"name": "main", "image": image, "command": ["sleep", "600"]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stranger"},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }
    await kubectl(*STRANGER, "apply", "-f", "-", given=json.dumps(pod))
    try:
        await kubectl(*STRANGER, "wait", "pod/stranger", "--for=condition=Ready", "--timeout=90s", timeout=100)
        yield "stranger"
    finally:
        await kubectl(*STRANGER, "delete", "pod", "stranger", "--wait=false")


async def asked(stranger: str, questions: dict[str, tuple[str, int, str | None]]) -> dict[str, Any]:
    """Return the answer that the stranger gets."""
    command = ("python", "-c", ASK, json.dumps(questions))
    found: dict[str, Any] = json.loads(await kubectl(*STRANGER, "exec", stranger, "--", *command, timeout=400))
    return found


async def address(name: str) -> str:
    """The address of the pod of a server."""
    [pod] = await objects("pods", "-l", f"app.kubernetes.io/name={name}")
    return str(pod["status"]["podIP"])


async def test_a_strangers_pod_gets_nothing_from_the_servers(stranger: str) -> None:
    """Ports that ask nobody who it is listen on loopback; all others ask: S3, PostgreSQL, NATS, the scripted model."""
    s3, nats, model, postgres = [await address(name) for name in ("s3", "nats", "model", "postgres")]
    inner = {"master": 9333, "filer": 8888, "volume": 9340, "admin": 23646}
    closed = {name: (s3, port, None) for name, port in inner.items()}
    closed |= {f"{name} gRPC": (s3, port + 10_000, None) for name, port in inner.items()}
    closed |= {"s3": (s3, 8334, None), "s3 gRPC": (s3, 18_334, None), "monitor": (nats, 8222, None)}
    found = await asked(stranger, closed)
    assert set(found.values()) == {"refused"}, found
    asks = {
        "buckets": (s3, 8333, "/"),
        "objects": (s3, 8333, "/ocf?list-type=2"),
        "journal": (model, 8080, "/__aimock/journal"),
        "requests": (model, 8080, "/v1/_requests"),
    }
    found = await asked(stranger, asks)
    assert found == {"buckets": 403, "objects": 403, "journal": 401, "requests": 401}
    # These two ask in their own protocols.
    assert await asked(stranger, {"postgres": (postgres, 5432, None), "nats": (nats, 4222, None)}) == {
        "postgres": "open",
        "nats": "open",
    }
    guess = ("env", "PGPASSWORD=guess", "psql", "-h", postgres, "-U", "ocf")
    with pytest.raises(AssertionError, match="password authentication failed"):
        await kubectl("exec", "postgres-0", "--", *guess, "-c", "SELECT 1")


async def test_the_routes_of_functions_serve_no_metrics(stranger: str) -> None:
    """By a function's own route and by the gateway's, which is public: 404. A pod's port is Prometheus' business."""
    hosts = {name: f"{name}.{NAMESPACE}.svc.cluster.local" for name in ("submit", "gateway")}
    found = await asked(stranger, {name: (host, 80, "/metrics") for name, host in hosts.items()})
    assert found == {"submit": 404, "gateway": 404}
    [pod] = [
        one
        for one in await objects("pods", "-l", "serving.knative.dev/service=submit")
        if "deletionTimestamp" not in one["metadata"]
    ]
    assert await asked(stranger, {"direct": (pod["status"]["podIP"], 8080, "/metrics")}) == {"direct": 200}
