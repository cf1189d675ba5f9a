"""Client of a gateway: HTTP for calls, a WebSocket that resumes for output (API: docs/reference/api.md).

It imports no models, so that a command line starts quickly: answers and chunks are JSON objects.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2

from ocf.events.client.gateway_retry import DEFAULT_PATIENCE, CallFailed, Outage, Unreachable
from ocf.events.errors import InvalidEvent
from ocf.events.gzip_ndjson import DamagedArchive, split_lines
from ocf.events.reorder import Reorderer, gap_lines, line_from
from ocf.events.untrusted_json import KIB, MIB, JsonLimit, parse_json

#: The stream's close codes after which a retry cannot help.
_EXPIRED = 4401
_FINAL_CODES = (_EXPIRED, 1011)
#: Answers of a gateway that is up but cannot serve now.
_NOT_NOW = (502, 503, 504)
#: Limit for the answer of an unknown server at /health, and for that of a call.
_HEALTH = JsonLimit(bytes=64 * KIB, depth=4, values=100)
_ANSWER = JsonLimit(bytes=64 * MIB, depth=64, values=2_000_000)
#: A chunk, as one message of a stream or one line of an output; a NATS message is its limit.
_CHUNK = JsonLimit(bytes=2 * MIB, depth=64, values=50_000)
#: Seconds between two pings of a stream, and until their answer is missed.
_PING = 5.0
#: Bytes of a piece of an upload.
_PIECE = 256 * KIB


@dataclass(frozen=True)
class Address:
    """A gateway, the caller's token, the project of its calls, and the instance that must answer, if one is known.

    `origin` says in errors where the URL comes from.
    """

    url: str
    token: str | None = None
    project: str = "default"
    instance: str | None = None
    origin: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that authenticate the caller."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


class GatewayClient:
    """Calls of a gateway. Each raises CallFailed with the gateway's message.

    Args:
        address: The gateway.
        find: Returns the address after an outage, because a restarted stack may have another port, and after a refusal
            of the token.
        http: The connections.
        report: Receives a line when the gateway goes away and when it is back.
    """

    def __init__(
        self,
        address: Address,
        find: Callable[[], Address],
        http: httpx2.AsyncClient,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._find, self._http, self._report = find, http, report
        self.address = address
        #: Seconds that `lasting` and `watch` wait for a gateway that is away.
        self.patience = DEFAULT_PATIENCE
        self._watched: Outage | None = None

    @property
    def disconnected(self) -> bool:
        """Return whether `watch` has lost its connection and tries to get it back."""
        return self._watched is not None and self._watched.reported

    async def find_again(self) -> None:
        """Locate the gateway again.

        Raises:
            Unreachable: it is not there yet.
        """
        self.address = await asyncio.to_thread(self._find)
        await self.verify()

    async def _renewed(self, error: CallFailed, sent: Address) -> bool:
        """Return whether the call that failed with `error` may be repeated: its token ended, and there is another."""
        if error.status != 401:
            return False
        await self.find_again()
        return self.address.token != sent.token

    async def verify(self) -> None:
        """Check that the named instance answers, before sending a token or a call.

        Raises:
            Unreachable: nothing answers, or another server.
        """
        if self.address.instance is not None and await self._instance() != self.address.instance:
            raise Unreachable(
                f"the server at {self.address.url} is not the stack of the data directory; "
                "nothing was sent to it. Find out what listens there; `ocf down` and `ocf up` choose another port"
            )

    async def _instance(self) -> object:
        body = b""
        try:
            async with self._http.stream("GET", f"{self.address.url}/health") as answer:
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > _HEALTH.bytes:
                        return None
            return parse_json(body, _HEALTH, "/health").get("instance")
        except httpx2.TransportError as error:
            raise self._unreachable(error) from None
        except (httpx2.HTTPError, InvalidEvent, AttributeError):
            return None

    async def call(self, method: str, path: str, *, body: object = None, **query: Any) -> Any:  # noqa: ANN401 - JSON
        """Return the answer's JSON, or None when it has no body."""
        content = bytearray()
        async for piece in self._send(method, path, body, query):
            content += piece
            if len(content) > _ANSWER.bytes:
                raise CallFailed(f"{method} {path}: the answer has more than {_ANSWER.bytes} bytes")
        try:
            return parse_json(bytes(content), _ANSWER, path) if content else None
        except InvalidEvent as error:
            raise CallFailed(f"the server at {self.address.url} is not a gateway: {method} {error}") from None

    async def lasting(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """GET a path, and retry while the gateway is away.

        Raises:
            GaveUp: it was away for `patience` seconds.
        """
        outage = self._outage()
        while True:
            try:
                if outage.since is not None:
                    await self.find_again()
                answer = await self.call("GET", path)
            except CallFailed as error:
                if not isinstance(error, Unreachable) and error.status not in _NOT_NOW:
                    raise
                await outage.wait(str(error), self.address.url)
            else:
                outage.connected(self.address.url)
                outage.over()
                return answer

    def download(self, path: str, **query: Any) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of a download."""
        return self._send("GET", path, None, query)

    async def recorded(self, execution: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the output so far, chunk by chunk."""
        try:
            async for line in split_lines(self.download(f"/tasks/{execution}/output", format="ndjson"), _CHUNK):
                yield _parsed(line)
        except DamagedArchive as error:
            raise CallFailed(str(error)) from None

    async def upload(self, path: str, file: Path, media_type: str) -> Any:  # noqa: ANN401 - JSON
        """POST a file to the project, in pieces; return the answer's JSON."""

        async def pieces() -> AsyncIterator[bytes]:
            with file.open("rb") as source:
                while piece := await asyncio.to_thread(source.read, _PIECE):
                    yield piece

        headers = {**self.address.headers, "Content-Type": media_type}
        url, query = self.address.url + path, {"project_id": self.address.project}
        try:
            # Checking what was sent may take longer than any other answer.
            answer = await self._http.post(url, params=query, content=pieces(), headers=headers, timeout=600)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from None
        if not answer.is_success:
            raise _refused(answer.content[: _HEALTH.bytes], answer.status_code, answer.headers.get("Location"))
        return parse_json(answer.content, _ANSWER, path)

    async def _send(self, method: str, path: str, body: object, query: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of the answer.

        Raises:
            Unreachable: nothing answers.
            CallFailed: the gateway refused.
        """
        if {"", ".", ".."} & set(path.split("/")[1:]) or {"?", "#"} & set(path):
            raise CallFailed(f"{method} {path}: an id or a name has no ?, # or /, and is not empty")
        # A call names the project itself where its path or its body does not.
        named = not path.startswith(("/tasks", "/sessions")) or (isinstance(body, dict) and "project_id" in body)
        query = {"project_id": None if named else self.address.project, **query}
        params = {name: value for name, value in query.items() if value is not None}
        for repeated in (False, True):
            sent = self.address
            try:
                async with self._http.stream(
                    method, sent.url + path, params=params, json=body, headers=sent.headers
                ) as answer:
                    if answer.is_success:
                        async for piece in answer.aiter_bytes():
                            yield piece
                        return
                    refusal = _refused(await _head(answer), answer.status_code, answer.headers.get("Location"))
            except httpx2.TransportError as error:
                raise self._unreachable(error) from None
            if repeated or not await self._renewed(refusal, sent):
                raise refusal

    def _unreachable(self, error: Exception) -> Unreachable:
        reason = str(error) or type(error).__name__
        origin = f", {self.address.origin}" if self.address.origin else ""
        return Unreachable(f"no gateway answers at {self.address.url}{origin} ({reason})")

    def _outage(self) -> Outage:
        return Outage(self.patience, self._report)

    async def watch(self, execution: str, start: int = 1) -> AsyncGenerator[dict[str, Any], None]:
        """Yield output from sequence `start` until the execution has ended, each chunk once, over lost connections.

        Raises:
            CallFailed: no such execution, or not readable with this token.
            GaveUp: the gateway was away for `patience` seconds; `resume` is the next sequence.
        """
        order, outage = Reorderer(start, gap_lines(lambda: datetime.now(UTC))), self._outage()
        self._watched, expired, refused = outage, None, self.address
        while True:
            outage.resume = order.next
            try:
                if expired is not None and not await self._renewed(expired, refused):
                    raise expired
                if expired is None and outage.since is not None:
                    await self.find_again()
                sent = self.address
                async with aclosing(self._stream(execution, order.next, outage)) as chunks:
                    async for chunk, data in chunks:
                        outage.over()
                        expired = None
                        if chunk["type"] == "heartbeat":
                            continue
                        ended = chunk["type"] == "end"
                        for line in order.finish() if ended else order.feed(line_from(chunk, data)):
                            yield chunk if line.data is data else json.loads(line.data)
                        if ended:
                            return
                await outage.wait("the stream was closed", self.address.url)
            except (ConnectionError, Unreachable) as error:
                await outage.wait(str(error), self.address.url)
            except CallFailed as error:
                if expired is not None or error.status != 401:
                    raise
                expired, refused = error, sent

    async def _stream(
        self, execution: str, start: int, outage: Outage
    ) -> AsyncGenerator[tuple[dict[str, Any], bytes], None]:
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

        query = httpx2.QueryParams({"project_id": self.address.project, "from": start})
        url = f"ws{self.address.url.removeprefix('http')}/tasks/{execution}/stream?{query}"
        try:
            async with connect(
                url, additional_headers=self.address.headers, max_size=_CHUNK.bytes, proxy=None, open_timeout=10,
                ping_interval=_PING, ping_timeout=_PING,
            ) as socket:  # fmt: skip
                outage.connected(self.address.url)
                async for message in socket:
                    data = message if isinstance(message, bytes) else message.encode()
                    yield _parsed(data), data
        except InvalidStatus as error:
            status = error.response.status_code
            if status in _NOT_NOW:
                raise ConnectionError(f"the gateway answers {status}") from None
            raise _refused(bytes(error.response.body or b""), status) from None
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code in _FINAL_CODES:
                reason, status = error.rcvd.reason, 401 if error.rcvd.code == _EXPIRED else 0
                raise CallFailed(reason or f"the stream was closed with {error.rcvd.code}", status) from None
            raise ConnectionError("the connection was lost") from None
        except (OSError, TimeoutError, InvalidHandshake) as error:
            raise ConnectionError(str(error) or type(error).__name__) from None


@asynccontextmanager
async def connect(
    find: Callable[[], Address], report: Callable[[str], None] = lambda _: None
) -> AsyncIterator[GatewayClient]:
    """Yield a client of the gateway that `find` names; a named instance is verified before anything else is sent.

    Raises:
        CallFailed: as `find` and `GatewayClient.verify`.
    """
    address = find()
    # Loading all CA certificates takes 20 ms, and plain HTTP does not need them.
    secure = address.url.startswith("https://")
    async with httpx2.AsyncClient(timeout=30, trust_env=False, verify=secure, follow_redirects=False) as http:
        client = GatewayClient(address, find, http, report)
        await client.verify()
        yield client


def _parsed(data: bytes) -> dict[str, Any]:
    """Return a chunk. Raises CallFailed for anything else."""
    try:
        chunk = parse_json(data, _CHUNK, "a chunk of the gateway")
    except InvalidEvent as error:
        raise CallFailed(str(error)) from None
    if not isinstance(chunk, dict) or not isinstance(chunk.get("type"), str):
        raise CallFailed("a chunk of the gateway has no type")
    return chunk


async def _head(answer: httpx2.Response) -> bytes:
    """Return the part of an error's answer that is read."""
    body = b""
    async for piece in answer.aiter_bytes():
        body += piece
        if len(body) > _HEALTH.bytes:
            break
    return body[: _HEALTH.bytes]


def _refused(body: bytes, status: int, location: str | None = None) -> CallFailed:
    """Return the detail of a problem document (RFC 9457), or a summary of another answer, as an error."""
    if location and 300 <= status < 400:  # not followed: it could lead the token elsewhere
        return CallFailed(f"the gateway answered {status} and redirects to {location[:200]}; use that address", status)
    try:
        detail = str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError, RecursionError):
        detail = f"the gateway answered {status}: {body[:200].decode(errors='replace')}"
    return CallFailed(detail, status)
