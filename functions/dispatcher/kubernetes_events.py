"""Kubernetes Events about executions, for whoever has kubectl alone: the target of a sink `kubernetes:events`.

An Event concerns the Service `execute`; its reason is the one of the fact (`WorkerLost`, `ModelAuth`, `TimedOut`).
"""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from ocf.events.envelope import Event, timestamp
from ocf.functions.dispatcher.http_target import REASON
from ocf.functions.dispatcher.result import SinkResult
from ocf.functions.dispatcher.routes import Route

#: What the kubelet mounts: the token of the pod's service account, the API server's certificate, the namespace.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SERVER = "https://kubernetes.default.svc"
_CREATED, _CONFLICT = 201, 409
#: Characters that the API server takes.
_MESSAGE = 1_024


class KubernetesEvents:
    """Creates an Event for each fact of a route. The same fact again is the same Event."""

    def __init__(
        self, route: Route, account: Path = ACCOUNT, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._route = route
        self._account = account
        self._transport = transport

    async def post(self, event: Event) -> SinkResult:
        """Create the Event; return the API server's answer."""
        try:
            namespace = (self._account / "namespace").read_text()
            # Read for each Event: the kubelet renews both.
            headers = {"authorization": f"Bearer {(self._account / 'token').read_text()}"}
            async with self._client() as http:
                url = f"{_SERVER}/api/v1/namespaces/{namespace}/events"
                response = await http.post(url, json=described(event, namespace), headers=headers)
        except (httpx.HTTPError, OSError, ssl.SSLError) as error:
            detail = str(error) or type(error).__name__
            return SinkResult(0, f"Kubernetes did not answer: {detail}", 0.0, event.id, type(error).__name__)
        status = _CREATED if response.status_code == _CONFLICT else response.status_code
        return SinkResult(status, response.text[:REASON], 0.0, event.id)

    def _client(self) -> httpx.AsyncClient:
        if self._transport is not None:
            return httpx.AsyncClient(transport=self._transport)
        context = ssl.create_default_context(cafile=str(self._account / "ca.crt"))
        return httpx.AsyncClient(verify=context, timeout=self._route.timeout, trust_env=False)


def described(event: Event, namespace: str) -> dict[str, Any]:
    """Return the Event of a fact."""
    data: Mapping[str, Any] = json.loads(event.data or b"{}")
    verb = event.type.split(".")[3]
    reason, said = str(data.get("reason") or verb), str(data.get("message") or "")
    about = f"execution {data.get('execution_id')} of project {data.get('project_id')}: {verb}"
    cause = f" ({reason})" if reason != verb else ""
    when = timestamp(event.time)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"ocf.{hashlib.sha256(event.id.encode()).hexdigest()[:32]}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Service",
            "name": "execute",
            "namespace": namespace,
        },
        "type": "Normal" if verb in ("completed", "cancelled") else "Warning",
        "reason": "".join(word.capitalize() for word in reason.split("_")),
        "message": f"{about}{cause}{': ' if said else ''}{said}"[:_MESSAGE],
        "source": {"component": "ocf"},
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
    }
