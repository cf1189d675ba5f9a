"""OpenCode 1.18's HTTP API: the only file that knows its paths and shapes (its own OpenAPI: `GET /doc`).

One server works for one execution. Every call names the directory, every probe has its own short
timeout: a request that arrives between bind and the "listening on" line is accepted and never answered.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

Event = dict[str, Any]
PermissionReply = Literal["once", "always", "reject"]

#: Synthetic event after a reconnect and at the end: {"sessions": [id], "messages": [message], "busy": bool,
#: "permissions": [request], "questions": [request]}. What the closed stream may have lost is in it.
RESYNC = "ocf.resync"
CONNECTED = "server.connected"
HEARTBEAT = "server.heartbeat"

#: Bytes of one answer or one event; a conversation of days has a tenth of it.
MAX_ANSWER = 64 * 1024 * 1024
_TOO_MUCH = f"more than {MAX_ANSWER // 1024**2} MiB"

_USERNAME = "opencode"
_CALL_TIMEOUT = 15.0
_PROBE_TIMEOUT = 2.0
_LOOK_TIMEOUT = 5.0
# The server sends `server.heartbeat` every 10 s: three missed ones mean a dead connection.
_STREAM_SILENCE = 35.0
_RECONNECT_DELAYS = (0.05, 0.2, 0.5, 1.0, 2.0)
_READ_ERRORS = (httpx.TransportError, httpx.StreamError, TimeoutError)


class OpenCodeError(Exception):
    """OpenCode refused a call or did not answer it."""


class StreamLostError(OpenCodeError):
    """The event stream closed and could not be opened again."""


@dataclass(frozen=True)
class Prompt:
    """One user turn; `system` is added to the system prompt."""

    text: str
    provider: str
    model: str
    system: str | None = None


class OpenCode:
    """Calls on the server at `base_url`, all for one directory.

    Raises:
        OpenCodeError: from every method: no answer in time, or an answer that is not 2xx.
    """

    def __init__(
        self, base_url: str, directory: Path, password: str, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        # trust_env off: a proxy variable of the function must not carry loopback calls away.
        self._http = httpx.AsyncClient(
            base_url=base_url,
            auth=(_USERNAME, password),
            params={"directory": str(directory)},
            timeout=httpx.Timeout(_CALL_TIMEOUT, connect=_PROBE_TIMEOUT),
            trust_env=False,
            transport=transport,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def version(self) -> str:
        """The server's version, once it says that it is healthy."""
        health = await self._call("GET", "/global/health", timeout=_PROBE_TIMEOUT)
        if not isinstance(health, dict) or health.get("healthy") is not True:
            raise OpenCodeError("the server says that it is not healthy")
        return str(health.get("version", ""))

    async def create_session(self, title: str, permissions: Sequence[Mapping[str, str]]) -> str:
        """A new session; its title is given so that no model call is spent on one.

        `permissions` are rules {permission, pattern, action}; the last one that matches decides.
        """
        body = {"title": title, "permission": [dict(rule) for rule in permissions]}
        return str((await self._call("POST", "/session", json=body))["id"])

    async def set_permissions(self, session: str, permissions: Sequence[Mapping[str, str]]) -> None:
        """Give an existing session rules that win over those it has."""
        await self._call("PATCH", f"/session/{session}", json={"permission": [dict(rule) for rule in permissions]})

    async def has_session(self, session: str) -> bool:
        """Whether the server's database knows the session."""
        answer = await self._send("GET", f"/session/{session}")
        return answer.status_code == 200

    async def prompt(self, session: str, prompt: Prompt) -> None:
        """Start a turn; its output comes as events."""
        body: dict[str, Any] = {
            "model": {"providerID": prompt.provider, "modelID": prompt.model},
            "parts": [{"type": "text", "text": prompt.text}],
        }
        if prompt.system:
            body["system"] = prompt.system
        await self._call("POST", f"/session/{session}/prompt_async", json=body)

    async def abort(self, session: str) -> None:
        """Stop the turn. Children of its shell tools may live on: the supervisor ends those."""
        await self._call("POST", f"/session/{session}/abort", timeout=_PROBE_TIMEOUT)

    async def delete_session(self, session: str) -> None:
        """Remove the session with its messages."""
        await self._call("DELETE", f"/session/{session}")

    async def messages(self, session: str) -> list[Event]:
        """Every message of a session as {info, parts}, oldest first."""
        return list(await self._call("GET", f"/session/{session}/message"))

    async def changes(self) -> list[Event]:
        """What differs from the last commit, as {file, status, additions, deletions}."""
        return list(await self._call("GET", "/vcs/status"))

    async def todo(self, session: str) -> list[Event]:
        """The agent's todo list as {content, status, priority}."""
        return list(await self._call("GET", f"/session/{session}/todo"))

    async def export(self, session: str) -> dict[str, Any]:
        """The session as `opencode export` writes it: {info, messages}."""
        info = await self._call("GET", f"/session/{session}")
        return {"info": info, "messages": await self.messages(session)}

    async def busy(self, session: str) -> bool:
        """Whether a turn of the session is running (or waiting to retry its model call)."""
        states = await self._call("GET", "/session/status", timeout=_LOOK_TIMEOUT)
        return bool(states.get(session, {}).get("type", "idle") != "idle")

    async def reply_permission(self, request: str, reply: PermissionReply, message: str | None = None) -> bool:
        """Answer a permission request; False when nothing waits under that id."""
        body = {"reply": reply} | ({"message": message} if message else {})
        return await self._reply(f"/permission/{request}/reply", body)

    async def reply_question(self, request: str, answers: Sequence[Sequence[str]]) -> bool:
        """Answer a question request, one list of labels per question; False when nothing waits."""
        return await self._reply(f"/question/{request}/reply", {"answers": [list(answer) for answer in answers]})

    async def reject_question(self, request: str) -> bool:
        """Refuse a question request; False when nothing waits."""
        return await self._reply(f"/question/{request}/reject", {})

    async def resync(self, session: str) -> Event:
        """What the session and its subagents' sessions are now, as a RESYNC event."""
        # Busy is read first: what happens after it can only make the messages newer than it says.
        busy = await self.busy(session)
        sessions = await self._family(session)
        messages = [message for one in sessions for message in await self.messages(one)]
        pending = {kind: await self._call("GET", f"/{kind}") for kind in ("permission", "question")}
        return {
            "type": RESYNC,
            "properties": {
                "sessions": sessions,
                "messages": messages,
                "busy": busy,
                "permissions": [one for one in pending["permission"] if one["sessionID"] in sessions],
                "questions": [one for one in pending["question"] if one["sessionID"] in sessions],
            },
        }

    async def events(self, session: str) -> AsyncIterator[Event]:
        """Every event from now on; the first one is CONNECTED. After a reconnect a RESYNC event follows.

        Raises:
            StreamLostError: it closed and five tries to open it again failed.
        """
        failures, opened = 0, False
        while True:
            try:
                async for event in self._stream():
                    if event["type"] == CONNECTED and opened:
                        # Opened before the messages are read: nothing can fall between the two.
                        yield await self.resync(session)
                    else:
                        yield event
                    opened, failures = True, 0
                said = "it was closed"
            except (OpenCodeError, *_READ_ERRORS, ValueError) as error:
                said = str(error) or type(error).__name__
            if failures == len(_RECONNECT_DELAYS):
                raise StreamLostError(f"the event stream was lost and could not be opened again: {said}")
            await asyncio.sleep(_RECONNECT_DELAYS[failures])
            failures += 1

    async def _stream(self) -> AsyncIterator[Event]:
        timeout = httpx.Timeout(_PROBE_TIMEOUT, read=_STREAM_SILENCE)
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(_CALL_TIMEOUT):
                answer = await stack.enter_async_context(self._http.stream("GET", "/event", timeout=timeout))
            if answer.status_code != 200:
                raise OpenCodeError(f"GET /event answered {answer.status_code}")
            async for line in _lines(answer):
                # OpenCode writes each event as one `data:` line.
                if line.startswith("data:"):
                    yield json.loads(line[5:])

    async def _family(self, session: str) -> list[str]:
        children = await self._call("GET", f"/session/{session}/children")
        below = [await self._family(child["id"]) for child in children]
        return [session, *(one for family in below for one in family)]

    async def _reply(self, path: str, body: Mapping[str, Any]) -> bool:
        answer = await self._send("POST", path, json=body)
        if answer.status_code in (400, 404):
            return False
        return bool(_decoded(answer))

    async def _call(self, method: str, path: str, *, json: object = None, timeout: float = _CALL_TIMEOUT) -> Any:  # noqa: ANN401 - JSON of another program; a transport timeout
        return _decoded(await self._send(method, path, json=json, timeout=timeout))

    async def _send(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        timeout: float = _CALL_TIMEOUT,
    ) -> httpx.Response:
        try:
            async with self._http.stream(method, path, json=json, timeout=timeout) as answer:
                return await _whole(answer)
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise OpenCodeError(f"{method} {path}: {str(error) or type(error).__name__}") from error


async def _whole(answer: httpx.Response) -> httpx.Response:
    """The answer with its body read. The server is in the agent's hands: its word on lengths is not taken.

    Raises:
        OpenCodeError: it is too large.
    """
    body = bytearray()
    async for piece in answer.aiter_bytes():
        body += piece
        if len(body) > MAX_ANSWER:
            raise OpenCodeError(f"{answer.request.method} {answer.request.url.path} answered {_TOO_MUCH}")
    # What was sent compressed is plain by now.
    headers = [(name, value) for name, value in answer.headers.raw if name.lower() != b"content-encoding"]
    return httpx.Response(answer.status_code, headers=headers, content=bytes(body), request=answer.request)


async def _lines(answer: httpx.Response) -> AsyncIterator[str]:
    """The lines of a stream.

    Raises:
        OpenCodeError: one is too long.
    """
    pieces: list[bytes] = []
    size = 0
    async for data in answer.aiter_bytes():
        *complete, rest = data.split(b"\n")
        for line in complete:
            yield b"".join((*pieces, line)).decode(errors="replace").removesuffix("\r")
            pieces, size = [], 0
        pieces.append(rest)
        size += len(rest)
        if size > MAX_ANSWER:
            raise OpenCodeError(f"GET /event sent an event of {_TOO_MUCH}")


def _decoded(answer: httpx.Response) -> Any:  # noqa: ANN401 - JSON of another program
    if not answer.is_success:
        where = f"{answer.request.method} {answer.request.url.path}"
        raise OpenCodeError(f"{where} answered {answer.status_code}: {answer.text[:300]}")
    return answer.json() if answer.content else None
