"""The command line's way to a gateway: HTTP for calls, a WebSocket that resumes for output."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from events.errors import OcfError
from functions.cli.common import DEFAULT_DATA_DIR

DEFAULT_URL = "http://127.0.0.1:3003"
_RETRY_FIRST, _RETRY_MOST = 0.2, 5.0
#: The stream's own close codes after which another try cannot help.
_FINAL_CODES = (4401, 1011)


class CallFailed(OcfError):
    """The gateway refused."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Where:
    """Which gateway, as whom, for which project."""

    url: str
    token: str | None
    project: str


def where(project: str, data_dir: Path | None = None) -> Where:
    """`OCF_GATEWAY` if set, else the stack of the data directory, else the default port; the token is `OCF_TOKEN`."""
    url = os.environ.get("OCF_GATEWAY")
    answer = (data_dir or DEFAULT_DATA_DIR) / "stack.json"
    if not url and answer.is_file():
        url = json.loads(answer.read_text())["gateway"]
    return Where((url or DEFAULT_URL).rstrip("/"), os.environ.get("OCF_TOKEN") or None, project)


class Gateway:
    """A gateway's REST calls (docs: /openapi.json). Every call raises CallFailed with what the gateway said."""

    def __init__(self, place: Where, http: httpx.AsyncClient) -> None:
        self.where = place
        self._http = http

    async def call(self, method: str, path: str, *, body: object = None, **query: Any) -> Any:  # noqa: ANN401 - JSON
        """The answer's JSON, or None when it has none."""
        answer = await self._send(method, path, body, query)
        return answer.json() if answer.content else None

    async def text(self, path: str, **query: Any) -> AsyncIterator[bytes]:
        """The pieces of a download."""
        request = self._http.build_request("GET", path, params=self._query(query))
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
            answer = await self._http.request(method, path, params=self._query(query), json=body)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        if answer.is_error:
            raise _refused(answer)
        return answer

    def _query(self, query: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in {"project_id": self.where.project, **query}.items() if v is not None}

    def _unreachable(self, error: Exception) -> CallFailed:
        said = str(error) or type(error).__name__
        return CallFailed(
            f"no gateway answers at {self.where.url} ({said}); `ocf up` starts one, OCF_GATEWAY names another"
        )

    async def chunks(self, execution: str, start: int = 1) -> AsyncIterator[dict[str, Any]]:
        """Output from sequence `start` until the execution has ended, each chunk once, over lost connections.

        Raises:
            CallFailed: no such execution, or not to be read with this token.
        """
        following, wait = start, _RETRY_FIRST
        while True:
            try:
                async for chunk in self._one_stream(execution, following):
                    wait = _RETRY_FIRST
                    if chunk["type"] == "end":
                        return
                    if chunk["type"] != "heartbeat" and chunk["seq"] >= following:
                        stands_for = (chunk.get("detail") or {}).get("to") if chunk["type"] == "gap" else None
                        following = int(stands_for or chunk["seq"]) + 1
                        yield chunk
            except ConnectionError:
                await asyncio.sleep(wait)
                wait = min(wait * 2, _RETRY_MOST)

    async def _one_stream(self, execution: str, start: int) -> AsyncIterator[dict[str, Any]]:
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

        query = httpx.QueryParams({"project_id": self.where.project, "from": start})
        url = f"ws{self.where.url.removeprefix('http')}/tasks/{execution}/stream?{query}"
        headers = {"Authorization": f"Bearer {self.where.token}"} if self.where.token else {}
        try:
            async with connect(url, additional_headers=headers, max_size=None, proxy=None, open_timeout=10) as socket:
                async for message in socket:
                    yield json.loads(message)
        except InvalidStatus as error:
            if error.response.status_code in (502, 503, 504):
                raise ConnectionError from None
            raise CallFailed(_detail(error.response.body, error.response.status_code)) from None
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code in _FINAL_CODES:
                raise CallFailed(error.rcvd.reason or f"the stream was closed with {error.rcvd.code}") from None
            raise ConnectionError from None
        except (OSError, TimeoutError, InvalidHandshake):
            raise ConnectionError from None


@asynccontextmanager
async def connect(place: Where) -> AsyncIterator[Gateway]:
    """A gateway; nothing is sent yet."""
    headers = {"Authorization": f"Bearer {place.token}"} if place.token else {}
    # Reading the certificates of all authorities takes 20 ms, and plain HTTP has no use for them.
    secure = not place.url.startswith("http://")
    async with httpx.AsyncClient(
        base_url=place.url, headers=headers, timeout=30, trust_env=False, verify=secure, follow_redirects=False
    ) as http:
        yield Gateway(place, http)


def _refused(answer: httpx.Response) -> CallFailed:
    return CallFailed(_detail(answer.content, answer.status_code), answer.status_code)


def _detail(body: bytes | bytearray | None, status: int) -> str:
    """What a problem document says (RFC 9457), or what can be made of another answer."""
    try:
        problem = json.loads(body or b"")
        return str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {status}: {(body or b'')[:200].decode(errors='replace')}"
