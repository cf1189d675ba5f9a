"""The command line's way to a gateway: HTTP for calls, a WebSocket that resumes for output."""

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

#: Seconds between tries to find a gateway again.
_RETRY_FIRST, _RETRY_MOST = 0.2, 5.0
#: The stream's own close codes after which another try cannot help.
_FINAL_CODES = (4401, 1011)
#: Answers of a gateway that is there and cannot serve now.
_NOT_NOW = (502, 503, 504)
#: What a server that is none of ours may say when asked who it is.
_HEALTH = JsonLimit(bytes=64 * KIB, depth=4, values=100)


class CallFailed(OcfError):
    """The gateway refused."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(CallFailed):
    """There is no gateway to talk to, now: no stack, another server on its port, no answer."""


class NoStack(Unreachable):
    """Nothing runs in the data directory."""


class GaveUp(CallFailed):
    """The gateway has been away for longer than was to be waited."""

    exit_status = 5


@dataclass(frozen=True)
class Where:
    """Which gateway, as whom, for which project; `stack` where it is that of a data directory on this machine."""

    url: str
    token: str | None
    project: str
    stack: Running | None = None


def where(project: str, data_dir: Path | None = None) -> Where:
    """The gateway of --gateway, else --data-dir, else OCF_GATEWAY, else OCF_DATA_DIR or `.ocf`; token: OCF_TOKEN.

    Raises:
        CallFailed: two are named, or the URL is none.
        Unreachable: no stack runs in the directory, or it is not ready.
    """
    named, data_dir = NAMED_GATEWAY.get(), data_dir or NAMED_DIRECTORY.get()
    if named and data_dir:
        raise CallFailed("--gateway and --data-dir exclude each other: each names whom to talk to")
    token = os.environ.get("OCF_TOKEN") or None
    if url := named or (None if data_dir else os.environ.get("OCF_GATEWAY")):
        source = "--gateway" if named else "OCF_GATEWAY"
        if not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", url):
            raise CallFailed(f"{source}: {url!r} is no URL of a gateway; it is like http://127.0.0.1:3003")
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
    """The stack of a data directory, once its gateway has said that it is that one.

    Raises:
        Unreachable: there is none, it is not ready, or something else answers on its port.
    """
    stack = _stack(place)
    async with connect(lambda: Where(stack.gateway, None, "", stack)):
        return stack


class Gateway:
    """A gateway's REST calls (docs: /openapi.json). Every call raises CallFailed with what the gateway said."""

    #: Seconds that `lasting` and `chunks` wait for a gateway that has gone.
    patience: float = PATIENCE

    def __init__(self, find: Callable[[], Where], http: httpx.AsyncClient) -> None:
        self.where = find()
        self._find = find
        self._http = http
        self._http.base_url = httpx.URL(self.where.url)

    async def verify(self) -> None:
        """Make sure that what answers is the data directory's stack, before it is told a token or asked for anything.

        Raises:
            Unreachable: nothing answers, or something else.
        """
        stack = self.where.stack
        if stack is None:
            return
        said = await self._instance()
        if said != stack.instance:
            raise Unreachable(
                f"what answers at {self.where.url} is not the stack of the data directory; "
                "it was asked for nothing. Find what listens there; `ocf down` and `ocf up` choose another port"
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
        """Look anew where the gateway is: a stack that was started again may have another port.

        Raises:
            Unreachable: not there yet.
        """
        self.where = self._find()
        self._http.base_url = httpx.URL(self.where.url)
        await self.verify()

    async def call(self, method: str, path: str, *, body: object = None, **query: Any) -> Any:  # noqa: ANN401 - JSON
        """The answer's JSON, or None when it has none."""
        answer = await self._send(method, path, body, query)
        try:
            return answer.json() if answer.content else None
        except ValueError:
            raise CallFailed(f"what answers at {self.where.url} is no gateway: {method} {path} is not JSON") from None

    async def lasting(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """GET, however often the gateway goes away meanwhile.

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
        """The pieces of a download."""
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
        """The output so far, chunk by chunk."""
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
        """The query with the project, where the call is about executions or sessions and its body does not name it."""
        named = not path.startswith(("/tasks", "/sessions")) or (isinstance(body, dict) and "project_id" in body)
        project = None if named else self.where.project
        return {k: v for k, v in {"project_id": project, **query}.items() if v is not None}

    def _unreachable(self, error: Exception) -> Unreachable:
        said = str(error) or type(error).__name__
        return Unreachable(f"no gateway answers at {self.where.url} ({said})")

    async def chunks(self, execution: str, start: int = 1) -> AsyncIterator[dict[str, Any]]:
        """Output from sequence `start` until the execution has ended, each chunk once, over lost connections.

        Raises:
            CallFailed: no such execution, or not to be read with this token.
            GaveUp: the gateway was away for `patience` seconds; says from where to go on.
        """
        following, outage = start, Outage(self)
        while True:
            outage.then = f"; go on with: ocf watch {execution} --from {following}"
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
    """The time a gateway is away: said once on stderr, waited out with growing pauses, given up in the end."""

    def __init__(self, gateway: Gateway, clock: Callable[[], float] = time.monotonic) -> None:
        self._gateway = gateway
        self._clock = clock
        self._pause = _RETRY_FIRST
        self._told = False
        self.since: float | None = None
        #: What to do after giving up, as the end of the message.
        self.then = ""

    async def wait(self, why: str) -> None:
        """Wait until it is time for the next try.

        Raises:
            GaveUp: it is away for too long.
        """
        url, patience = self._gateway.where.url, self._gateway.patience
        if self.since is None:
            self.since = self._clock()
        left = self.since + patience - self._clock()
        if left <= 0:
            raise GaveUp(f"gave up after {patience:.0f} s: {why}{self.then}")
        if not self._told:
            self._told = True
            _say(f"disconnected from {url} ({why}); reconnecting")
        await asyncio.sleep(min(self._pause, left))
        self._pause = min(self._pause * 2, _RETRY_MOST)

    def connected(self) -> None:
        """It is there again; not over before it has said something."""
        if self._told:
            self._told = False
            _say(f"reconnected to {self._gateway.where.url}")

    def over(self) -> None:
        """It serves again."""
        self.connected()
        self._pause, self.since = _RETRY_FIRST, None


def _say(line: str) -> None:
    sys.stderr.write(f"ocf: {printable(line)}\n")
    sys.stderr.flush()


@asynccontextmanager
async def connect(find: Callable[[], Where]) -> AsyncIterator[Gateway]:
    """The gateway that `find` names; a stack's own has been verified, and nothing else was sent yet.

    Raises:
        CallFailed: as `find` and `Gateway.verify`.
    """
    token = os.environ.get("OCF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # Reading the certificates of all authorities takes 20 ms, and plain HTTP has no use for them.
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
    """What a problem document says (RFC 9457), or what can be made of another answer."""
    try:
        problem = json.loads(body or b"")
        return str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {status}: {(body or b'')[:200].decode(errors='replace')}"
