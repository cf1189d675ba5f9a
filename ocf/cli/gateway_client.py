"""Client of a gateway: HTTP for calls, a WebSocket that resumes for output."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ocf.cli.common import NAMED_DIRECTORY, NAMED_GATEWAY, PATIENCE, directory, printable
from ocf.events.errors import InvalidEvent, OcfError
from ocf.events.limits import KIB, JsonLimit, parse_json
from ocf.stack.state import Running, running, running_pid

#: Seconds between tries to reach a gateway again: first, and at most.
_RETRY_FIRST, _RETRY_MOST = 0.2, 5.0
#: The stream's close codes after which a retry cannot help.
_FINAL_CODES = (4401, 1011)
#: Answers of a gateway that is up but cannot serve now.
_NOT_NOW = (502, 503, 504)
#: Limit for the answer of an unknown server at /health.
_HEALTH = JsonLimit(bytes=64 * KIB, depth=4, values=100)


class CallFailed(OcfError):
    """The gateway refused."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(CallFailed):
    """No gateway is reachable now: no stack, another server on its port, or no answer."""


class NoStack(Unreachable):
    """No stack runs in the data directory."""


class GaveUp(CallFailed):
    """The gateway was away for longer than the time limit."""

    exit_status = 5


@dataclass(frozen=True)
class Where:
    """A gateway, the caller's token, and the project; `stack` where it belongs to a data directory on this machine."""

    url: str
    token: str | None
    project: str
    stack: Running | None = None


def where(project: str, data_dir: Path | None = None) -> Where:
    """Return the gateway of --gateway, else --data-dir, else OCF_GATEWAY, else OCF_DATA_DIR or `.ocf`.

    The token is OCF_TOKEN.

    Raises:
        CallFailed: both options are given, or the URL is invalid.
        Unreachable: no stack runs in the directory, or it is not ready.
    """
    named, data_dir = NAMED_GATEWAY.get(), data_dir or NAMED_DIRECTORY.get()
    if named and data_dir:
        raise CallFailed("--gateway and --data-dir exclude each other: each names a gateway")
    token = os.environ.get("OCF_TOKEN") or None
    if url := named or (None if data_dir else os.environ.get("OCF_GATEWAY")):
        source = "--gateway" if named else "OCF_GATEWAY"
        if not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", url):
            raise CallFailed(f"{source}: {url!r} is not a gateway URL such as http://127.0.0.1:3003")
        return Where(url.rstrip("/"), token, project)
    stack = _stack(directory(data_dir))
    return Where(stack.gateway, token, project, stack)


def _stack(place: Path) -> Running:
    stack, pid = running(place), running_pid(place)
    if stack is None and pid is not None:
        raise Unreachable(f"the stack in {place} (pid {pid}) is not ready; its log files are in {place / 'logs'}")
    if stack is None:
        raise NoStack(
            f"no stack runs in {place}: `ocf up --data-dir {place}` starts one, --data-dir names another directory, "
            "--gateway URL or OCF_GATEWAY a gateway elsewhere"
        )
    return stack


async def answering_stack(place: Path) -> Running:
    """Return the stack of a data directory, once its gateway has confirmed its identity.

    Raises:
        Unreachable: there is none, it is not ready, or another server answers on its port.
    """
    stack = _stack(place)
    async with connect(lambda: Where(stack.gateway, None, "", stack)):
        return stack


class Gateway:
    """A gateway's REST calls (docs: /openapi.json). Every call raises CallFailed with the gateway's message."""

    #: Seconds that `lasting` and `chunks` wait for a gateway that is away.
    patience: float = PATIENCE

    def __init__(self, find: Callable[[], Where], http: httpx.AsyncClient) -> None:
        self.where = find()
        self._find = find
        self._http = http
        self._http.base_url = httpx.URL(self.where.url)

    async def verify(self) -> None:
        """Check that the data directory's stack answers, before sending a token or a call.

        Raises:
            Unreachable: nothing answers, or another server.
        """
        stack = self.where.stack
        if stack is None:
            return
        instance = await self._instance()
        if instance != stack.instance:
            raise Unreachable(
                f"the server at {self.where.url} is not the stack of the data directory; "
                "nothing was sent to it. Find out what listens there; `ocf down` and `ocf up` choose another port"
            )

    async def _instance(self) -> object:
        request = self._http.build_request("GET", "/health")
        request.headers.pop("Authorization", None)
        body = b""
        try:
            answer = await self._http.send(request, stream=True)
            try:
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > _HEALTH.bytes:
                        return None
            finally:
                await answer.aclose()
            return parse_json(body, _HEALTH, "/health").get("instance")
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        except (httpx.HTTPError, InvalidEvent, AttributeError):
            return None

    async def find_again(self) -> None:
        """Locate the gateway again: a restarted stack may have another port.

        Raises:
            Unreachable: it is not there yet.
        """
        self.where = self._find()
        self._http.base_url = httpx.URL(self.where.url)
        await self.verify()

    async def call(self, method: str, path: str, *, body: object = None, **query: Any) -> Any:  # noqa: ANN401 - JSON
        """Return the answer's JSON, or None when it has no body."""
        answer = await self._send(method, path, body, query)
        try:
            return answer.json() if answer.content else None
        except ValueError:
            raise CallFailed(f"the server at {self.where.url} is not a gateway: {method} {path} is not JSON") from None

    async def lasting(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """GET a path, and retry while the gateway is away.

        Raises:
            GaveUp: it was away for `patience` seconds.
        """
        outage = Outage(self)
        while True:
            try:
                if outage.since is not None:
                    await self.find_again()
                answer = await self.call("GET", path)
            except CallFailed as error:
                if not isinstance(error, Unreachable) and error.status not in _NOT_NOW:
                    raise
                await outage.wait(str(error))
            else:
                outage.over()
                return answer

    async def text(self, path: str, **query: Any) -> AsyncIterator[bytes]:
        """Yield the pieces of a download."""
        request = self._http.build_request("GET", path, params=self._query(path, query))
        try:
            answer = await self._http.send(request, stream=True)
            try:
                if answer.is_error:
                    await answer.aread()
                    raise _refused(answer)
                async for piece in answer.aiter_bytes():
                    yield piece
            finally:
                await answer.aclose()
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    async def recorded(self, execution: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the output so far, chunk by chunk."""
        rest = b""
        async for piece in self.text(f"/tasks/{execution}/output", format="ndjson"):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield json.loads(line)
        if rest:
            yield json.loads(rest)

    async def _send(self, method: str, path: str, body: object, query: dict[str, Any]) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, params=self._query(path, query, body), json=body)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        if answer.is_error:
            raise _refused(answer)
        return answer

    def _query(self, path: str, query: dict[str, Any], body: object = None) -> dict[str, Any]:
        """Return the query, with the project where the call needs one and its body does not have it."""
        named = not path.startswith(("/tasks", "/sessions")) or (isinstance(body, dict) and "project_id" in body)
        project = None if named else self.where.project
        return {k: v for k, v in {"project_id": project, **query}.items() if v is not None}

    def _unreachable(self, error: Exception) -> Unreachable:
        reason = str(error) or type(error).__name__
        return Unreachable(f"no gateway answers at {self.where.url} ({reason})")

    async def chunks(self, execution: str, start: int = 1) -> AsyncIterator[dict[str, Any]]:
        """Yield output from sequence `start` until the execution has ended, each chunk once, over lost connections.

        Raises:
            CallFailed: no such execution, or not readable with this token.
            GaveUp: the gateway was away for `patience` seconds; names the sequence to continue from.
        """
        following, outage = start, Outage(self)
        while True:
            outage.then = f"; continue with: ocf watch {execution} --from {following}"
            try:
                if outage.since is not None:
                    await self.find_again()
                async for chunk in self._one_stream(execution, following, outage):
                    outage.over()
                    if chunk["type"] == "end":
                        return
                    if chunk["type"] != "heartbeat" and chunk["seq"] >= following:
                        stands_for = (chunk.get("detail") or {}).get("to") if chunk["type"] == "gap" else None
                        following = int(stands_for or chunk["seq"]) + 1
                        yield chunk
                await outage.wait("the stream was closed")
            except (ConnectionError, Unreachable) as error:
                await outage.wait(str(error))

    async def _one_stream(self, execution: str, start: int, outage: Outage) -> AsyncIterator[dict[str, Any]]:
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

        query = httpx.QueryParams({"project_id": self.where.project, "from": start})
        url = f"ws{self.where.url.removeprefix('http')}/tasks/{execution}/stream?{query}"
        headers = {"Authorization": f"Bearer {self.where.token}"} if self.where.token else {}
        try:
            async with connect(url, additional_headers=headers, max_size=None, proxy=None, open_timeout=10) as socket:
                outage.connected()
                async for message in socket:
                    yield json.loads(message)
        except InvalidStatus as error:
            status = error.response.status_code
            if status in _NOT_NOW:
                raise ConnectionError(f"the gateway answers {status}") from None
            raise CallFailed(_detail(error.response.body, status), status) from None
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code in _FINAL_CODES:
                raise CallFailed(error.rcvd.reason or f"the stream was closed with {error.rcvd.code}") from None
            raise ConnectionError("the connection was lost") from None
        except (OSError, TimeoutError, InvalidHandshake) as error:
            raise ConnectionError(str(error) or type(error).__name__) from None


class Outage:
    """The time a gateway is away: reported once on stderr, retried with growing pauses, with a time limit."""

    def __init__(self, gateway: Gateway, clock: Callable[[], float] = time.monotonic) -> None:
        self._gateway = gateway
        self._clock = clock
        self._pause = _RETRY_FIRST
        self._reported = False
        self.since: float | None = None
        #: Advice at the end of the message when giving up.
        self.then = ""

    async def wait(self, why: str) -> None:
        """Wait until the next try.

        Raises:
            GaveUp: it is away for too long.
        """
        url, patience = self._gateway.where.url, self._gateway.patience
        if self.since is None:
            self.since = self._clock()
        left = self.since + patience - self._clock()
        if left <= 0:
            raise GaveUp(f"gave up after {patience:.0f} s: {why}{self.then}")
        if not self._reported:
            self._reported = True
            _report(f"disconnected from {url} ({why}); reconnecting")
        await asyncio.sleep(min(self._pause, left))
        self._pause = min(self._pause * 2, _RETRY_MOST)

    def connected(self) -> None:
        """Report the reconnection; the outage ends only with the first message."""
        if self._reported:
            self._reported = False
            _report(f"reconnected to {self._gateway.where.url}")

    def over(self) -> None:
        """End the outage."""
        self.connected()
        self._pause, self.since = _RETRY_FIRST, None


def _report(line: str) -> None:
    sys.stderr.write(f"ocf: {printable(line)}\n")
    sys.stderr.flush()


@asynccontextmanager
async def connect(find: Callable[[], Where]) -> AsyncIterator[Gateway]:
    """Yield the gateway that `find` names; a stack's own is verified first, before anything else is sent.

    Raises:
        CallFailed: as `find` and `Gateway.verify`.
    """
    token = os.environ.get("OCF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # Loading all CA certificates takes 20 ms, and plain HTTP does not need them.
    secure = find().url.startswith("https://")
    async with httpx.AsyncClient(
        headers=headers, timeout=30, trust_env=False, verify=secure, follow_redirects=False
    ) as http:
        gateway = Gateway(find, http)
        await gateway.verify()
        yield gateway


def _refused(answer: httpx.Response) -> CallFailed:
    return CallFailed(_detail(answer.content, answer.status_code), answer.status_code)


def _detail(body: bytes | bytearray | None, status: int) -> str:
    """Return the detail of a problem document (RFC 9457), or a summary of another answer."""
    try:
        problem = json.loads(body or b"")
        return str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {status}: {(body or b'')[:200].decode(errors='replace')}"
