"""HTTP targets of a route's events: our functions, external sinks, and the API server of Kubernetes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import httpx2

from ocf.events import trace_context
from ocf.events.command_publisher import NATS_DELIVERIES, NATS_SEQUENCE, NATS_SUBJECT
from ocf.events.envelope import STRUCTURED, Event, timestamp
from ocf.events.ports import Clock
from ocf.functions.dispatcher.delivery_result import DeliveryResult, SinkResult
from ocf.functions.dispatcher.routes import Route

#: Bytes of a response that are read as its reason.
REASON = 2_000
_CONNECT = 10.0
#: Maximum of `Retry-After` in seconds, for functions and for sinks.
_MAX_RETRY_AFTER = 30.0
_MAX_SINK_RETRY_AFTER = 86_400.0
#: Extensions that the dispatcher adds for functions; sinks do not get them.
_INTERNAL = frozenset({NATS_SUBJECT, NATS_SEQUENCE, NATS_DELIVERIES})

#: What the kubelet mounts: the token of the pod's service account, the API server's certificate, the namespace.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SERVER = "https://kubernetes.default.svc"
_CREATED, _CONFLICT = 201, 409
#: Characters that the API server takes.
_MESSAGE = 1_024


#: TCP keepalive (tcp(7)). An execution may be silent for an hour, and its machine may disappear meanwhile. The kernel
#: probes after 15 s of silence, every 5 s, and closes the connection after three lost probes; the event is redelivered.
_IDLE, _INTERVAL, _PROBES = 15, 5, 3
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=64)


def connections() -> httpx2.AsyncHTTPTransport:
    """Return the transport to functions: unlimited connections, with TCP keepalive to detect lost machines."""
    options: list[tuple[int, int, int]] = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    wanted = {"TCP_KEEPIDLE": _IDLE, "TCP_KEEPINTVL": _INTERVAL, "TCP_KEEPCNT": _PROBES}
    wanted["TCP_USER_TIMEOUT"] = 1000 * (_IDLE + _INTERVAL * _PROBES)
    for name, value in wanted.items():
        if hasattr(socket, name):  # macOS lacks some
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return httpx2.AsyncHTTPTransport(limits=_LIMITS, socket_options=options)


class Target(Protocol):
    """A receiver of events."""

    async def post(self, event: Event) -> DeliveryResult:
        """Send one event; return the result. Errors of the receiver are results, not exceptions."""
        ...


def function_url(urls: str, function: str) -> str:
    """Return the URL of a function.

    Args:
        urls: Entries separated by commas: `NAME=URL` for one function, and a URL with `{function}` for all others.
        function: Name of the function.

    Raises:
        ValueError: `urls` has no URL for this function.
    """
    template = None
    for entry in (entry.strip() for entry in urls.split(",")):
        name, _, url = entry.partition("=")
        if "://" in name:
            template = entry
        elif name == function:
            return url
    if template is None:
        raise ValueError(f"FUNCTION_URLS: no URL for {function!r}")
    return template.replace("{function}", function)


class FunctionTarget:
    """A function of this system: gets the event in binary mode, with the dispatch token."""

    def __init__(self, route: Route, url: str, token: str | None, http: httpx2.AsyncClient) -> None:
        self._name = route.function
        self._url = url
        self._token = token
        self._http = http
        self._timeout = httpx2.Timeout(route.timeout, connect=_CONNECT)

    async def post(self, event: Event) -> DeliveryResult:
        """POST the event, and wait for the function."""
        headers = event.with_extensions(**trace_context.active()).http_headers()
        if self._token:
            headers["ocf-dispatch-token"] = self._token
        try:
            response = await self._http.post(self._url, content=event.data, headers=headers, timeout=self._timeout)
        except httpx2.HTTPError as error:
            return DeliveryResult(0, f"{self._name} did not answer: {error or type(error).__name__}")
        return DeliveryResult(
            response.status_code, response.text[:REASON], retry_after(response.headers, _MAX_RETRY_AFTER)
        )


class Webhook:
    """An external receiver. It does not follow redirects, and reads only the first bytes of a response.

    With keys the event is one signed JSON object (structured mode), because a signature covers only the body, which
    must therefore contain all attributes. Without keys (a Knative Broker, which drops our headers) the mode is binary.
    """

    def __init__(
        self, route: Route, url: str, keys: Sequence[bytes], *, clock: Clock, http: httpx2.AsyncClient
    ) -> None:
        self._route = route
        self._url = url
        self._keys = keys
        self._clock = clock
        self._http = http

    async def post(self, event: Event) -> SinkResult:
        """POST the event."""
        extensions = {name: value for name, value in event.extensions.items() if name not in _INTERNAL}
        extensions |= trace_context.active()
        public = Event(**{**vars(event), "extensions": extensions})
        headers, body = (self._signed(public)) if self._keys else (public.http_headers(), public.data)
        try:
            async with asyncio.timeout(self._route.timeout):
                status, reason, command = await self._exchange(headers, body)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            detail = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
            reason = f"{self._route.function} did not answer: {detail}"
            return SinkResult(0, reason, 0.0, event.id, type(error).__name__)
        return SinkResult(status, reason, command, event.id)

    async def _exchange(self, headers: Mapping[str, str], body: bytes) -> tuple[int, str, float]:
        request = self._http.build_request(
            "POST", self._url, content=body, headers=headers, timeout=self._route.timeout
        )
        response = await self._http.send(request, stream=True, follow_redirects=False)
        try:
            read = b""
            if not response.is_success:
                # Read the raw bytes: a compressed response may inflate without end.
                async for part in response.aiter_raw(REASON):
                    read += part
                    if len(read) >= REASON:
                        break
        finally:
            await response.aclose()
        return response.status_code, _reason(response, read), retry_after(response.headers, _MAX_SINK_RETRY_AFTER, 0.0)

    def _signed(self, event: Event) -> tuple[dict[str, str], bytes]:
        body = json.dumps(event.structured(), ensure_ascii=False, separators=(",", ":")).encode()
        # A dot separates the signed parts, so the id must not contain one (Standard Webhooks 1.0.0, Signature scheme).
        identity, when = event.id.replace(".", "%2E"), str(int(self._clock.now().timestamp()))
        headers = {
            "Content-Type": STRUCTURED,
            "webhook-id": identity,
            "webhook-timestamp": when,
            "webhook-signature": sign(self._keys, identity, when, body),
        }
        return headers, body


def sign(keys: Sequence[bytes], identity: str, when: str, body: bytes) -> str:
    """Return the value of `webhook-signature`: one `v1,` HMAC-SHA256 per key, separated by spaces."""
    content = f"{identity}.{when}.".encode() + body
    return " ".join(f"v1,{base64.b64encode(hmac.digest(key, content, 'sha256')).decode()}" for key in keys)


def retry_after(headers: Mapping[str, str], longest: float, default: float = 1.0) -> float:
    """Return the seconds of `Retry-After`, at most `longest`; `default` without the header or for a date."""
    try:
        return min(longest, max(min(default, 0.1), float(headers.get("retry-after", default))))
    except ValueError:
        return default


def _reason(response: httpx2.Response, read: bytes) -> str:
    if response.is_redirect:
        # Without the query, in which the receiver may repeat the request.
        location = response.headers.get("location", "").partition("#")[0].partition("?")[0]
        return f"redirects to {location[:REASON] or 'nowhere'}; redirects are not followed"
    return read[:REASON].decode("utf-8", "replace")


class KubernetesEvents:
    """The cluster itself: a Kubernetes Event for each fact, for whoever has kubectl alone.

    It concerns the Service `execute`; its reason is the one of the fact (`WorkerLost`, `ModelAuth`, `TimedOut`). The
    same fact again is the same Event.
    """

    def __init__(
        self, route: Route, account: Path = ACCOUNT, transport: httpx2.AsyncBaseTransport | None = None
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
        except (httpx2.HTTPError, OSError, ssl.SSLError) as error:
            detail = str(error) or type(error).__name__
            return SinkResult(0, f"Kubernetes did not answer: {detail}", 0.0, event.id, type(error).__name__)
        status = _CREATED if response.status_code == _CONFLICT else response.status_code
        return SinkResult(status, response.text[:REASON], 0.0, event.id)

    def _client(self) -> httpx2.AsyncClient:
        if self._transport is not None:
            return httpx2.AsyncClient(transport=self._transport)
        context = ssl.create_default_context(cafile=str(self._account / "ca.crt"))
        return httpx2.AsyncClient(verify=context, timeout=self._route.timeout, trust_env=False)


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
