"""Where a row's events go: a function of ours, or a sink of somebody else's."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import socket
from collections.abc import Mapping, Sequence
from typing import Protocol

import httpx

from ocf.events.delivery import NATS_DELIVERIES, NATS_SEQUENCE, NATS_SUBJECT
from ocf.events.envelope import STRUCTURED, Event
from ocf.events.ports import Clock
from ocf.functions.dispatcher.result import DeliveryResult, SinkResult
from ocf.functions.dispatcher.routes import Route

#: How much of an answer is read as its reason.
REASON = 2_000
_CONNECT = 10.0
#: How long a function or sink may ask to be left alone, in seconds.
_MAX_RETRY_AFTER = 30.0
_MAX_SINK_RETRY_AFTER = 86_400.0
#: What the dispatcher adds for functions; nobody else's business.
_INTERNAL = frozenset({NATS_SUBJECT, NATS_SEQUENCE, NATS_DELIVERIES})


#: A run may be silent for an hour, and its machine may be gone without a word: the kernel asks after 15 s of silence,
#: every 5 s, and gives the connection up after three questions without an answer (tcp(7)). The event is delivered anew.
_IDLE, _INTERVAL, _PROBES = 15, 5, 3
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64)


def connections() -> httpx.AsyncHTTPTransport:
    """The way to functions: as many connections as events are under way, and none to a machine that is gone."""
    options: list[tuple[int, int, int]] = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    wanted = {"TCP_KEEPIDLE": _IDLE, "TCP_KEEPINTVL": _INTERVAL, "TCP_KEEPCNT": _PROBES}
    wanted["TCP_USER_TIMEOUT"] = 1000 * (_IDLE + _INTERVAL * _PROBES)
    for name, value in wanted.items():
        if hasattr(socket, name):  # macOS lacks some
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return httpx.AsyncHTTPTransport(limits=_LIMITS, socket_options=options)


class Target(Protocol):
    """Takes one event, and says how that went; it does not raise for what the other side does."""

    async def post(self, event: Event) -> DeliveryResult: ...


class Function:
    """A function: the event in binary mode, with the secret that it believes."""

    def __init__(self, row: Route, url: str, token: str | None, http: httpx.AsyncClient) -> None:
        self._name = row.function
        self._url = url
        self._token = token
        self._http = http
        self._timeout = httpx.Timeout(row.timeout, connect=_CONNECT)

    async def post(self, event: Event) -> DeliveryResult:
        """POST the event; as long as the function works."""
        headers = event.http_headers()
        if self._token:
            headers["ocf-dispatch-token"] = self._token
        try:
            response = await self._http.post(self._url, content=event.data, headers=headers, timeout=self._timeout)
        except httpx.HTTPError as error:
            return DeliveryResult(0, f"{self._name} did not answer: {error or type(error).__name__}")
        return DeliveryResult(
            response.status_code, response.text[:REASON], retry_after(response.headers, _MAX_RETRY_AFTER)
        )


class Webhook:
    """A receiver outside. Redirects are not followed, and no more of its answer is read than is kept.

    With keys the event is one signed JSON object (structured mode): a signature covers the body only, and so the type
    and every other attribute are in it. Without (a Knative Broker, which keeps none of our headers) it is binary.
    """

    def __init__(self, row: Route, url: str, keys: Sequence[bytes], *, clock: Clock, http: httpx.AsyncClient) -> None:
        self._row = row
        self._url = url
        self._keys = keys
        self._clock = clock
        self._http = http

    async def post(self, event: Event) -> SinkResult:
        """POST the event."""
        kept = {name: value for name, value in event.extensions.items() if name not in _INTERNAL}
        told = Event(**{**vars(event), "extensions": kept})
        headers, body = (self._signed(told)) if self._keys else (told.http_headers(), told.data)
        try:
            async with asyncio.timeout(self._row.timeout):
                status, reason, command = await self._exchange(headers, body)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            said = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
            reason = f"{self._row.function} did not answer: {said}"
            return SinkResult(0, reason, 0.0, event.id, type(error).__name__)
        return SinkResult(status, reason, command, event.id)

    async def _exchange(self, headers: Mapping[str, str], body: bytes) -> tuple[int, str, float]:
        request = self._http.build_request("POST", self._url, content=body, headers=headers, timeout=self._row.timeout)
        response = await self._http.send(request, stream=True, follow_redirects=False)
        try:
            read = b""
            if not response.is_success:
                # As it comes: what is compressed may be endless.
                async for part in response.aiter_raw(REASON):
                    read += part
                    if len(read) >= REASON:
                        break
        finally:
            await response.aclose()
        return response.status_code, _reason(response, read), retry_after(response.headers, _MAX_SINK_RETRY_AFTER, 0.0)

    def _signed(self, event: Event) -> tuple[dict[str, str], bytes]:
        body = json.dumps(event.structured(), ensure_ascii=False, separators=(",", ":")).encode()
        # A dot separates what is signed: an id must have none (Standard Webhooks 1.0.0, Signature scheme).
        identity, when = event.id.replace(".", "%2E"), str(int(self._clock.now().timestamp()))
        headers = {
            "Content-Type": STRUCTURED,
            "webhook-id": identity,
            "webhook-timestamp": when,
            "webhook-signature": sign(self._keys, identity, when, body),
        }
        return headers, body


def sign(keys: Sequence[bytes], identity: str, when: str, body: bytes) -> str:
    """The value of `webhook-signature`: one `v1,` HMAC-SHA256 for each key, separated by spaces."""
    content = f"{identity}.{when}.".encode() + body
    return " ".join(f"v1,{base64.b64encode(hmac.digest(key, content, 'sha256')).decode()}" for key in keys)


def retry_after(headers: Mapping[str, str], longest: float, default: float = 1.0) -> float:
    """Seconds that an answer asks for, at most `longest`; a date there counts as none given."""
    try:
        return min(longest, max(min(default, 0.1), float(headers.get("retry-after", default))))
    except ValueError:
        return default


def _reason(response: httpx.Response, read: bytes) -> str:
    if response.is_redirect:
        # Without its query: who redirects may repeat there what came in.
        location = response.headers.get("location", "").partition("#")[0].partition("?")[0]
        return f"redirects, which is not followed, to {location[:REASON] or 'nowhere'}"
    return read[:REASON].decode("utf-8", "replace")
