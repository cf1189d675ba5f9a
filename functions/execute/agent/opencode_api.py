"""OpenCode 1.18's HTTP API: the only file that knows its paths and shapes (its own OpenAPI: `GET /doc`).

One server works for one execution. Every call names the directory, every probe has its own short
timeout: a request that arrives between bind and the "listening on" line is accepted and never answered.

The server is in the agent's hands, and whoever takes its socket from it answers in its place: nothing it says is
inflated, and all of it has a limit before it is parsed (`ocf.events.limits`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Literal

import httpx
import structlog

from ocf.events import limits
from ocf.events.limits import InvalidJson, JsonLimit, OverLimit, parse_json

log = structlog.get_logger()

Event = dict[str, Any]
PermissionReply = Literal["once", "always", "reject"]

#: Synthetic event after a reconnect and at the end: {"sessions": [id], "messages": [message], "busy": bool,
#: "permissions": [request], "questions": [request]}. What the closed stream may have lost is in it.
RESYNC = "ocf.resync"
CONNECTED = "server.connected"
HEARTBEAT = "server.heartbeat"

_USERNAME = "opencode"
_CALL_TIMEOUT = 15.0
_PROBE_TIMEOUT = 2.0
_LOOK_TIMEOUT = 5.0
#: A call may take so many times the silence that it may have: an answer a byte at a time is none.
_WHOLE = 4
#: Messages of a conversation that are asked for at once; fewer where those are too long together.
_PAGE, _FEWER = 64, 8
_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{limits.AGENT_ID}}}")
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
            headers={"accept-encoding": "identity"},
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            trust_env=False,
            transport=transport,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def version(self) -> str:
        """The server's version, once it says that it is healthy."""
        health = _object(await self._call("GET", "/global/health", timeout=_PROBE_TIMEOUT))
        if health.get("healthy") is not True:
            raise OpenCodeError("the server says that it is not healthy")
        return str(health.get("version", ""))

    async def create_session(self, title: str, permissions: Sequence[Mapping[str, str]]) -> str:
        """A new session; its title is given so that no model call is spent on one.

        `permissions` are rules {permission, pattern, action}; the last one that matches decides.
        """
        body = {"title": title, "permission": [dict(rule) for rule in permissions]}
        return _id(_object(await self._call("POST", "/session", json=body)))

    async def set_permissions(self, session: str, permissions: Sequence[Mapping[str, str]]) -> None:
        """Give an existing session rules that win over those it has."""
        await self._call("PATCH", f"/session/{session}", json={"permission": [dict(rule) for rule in permissions]})

    async def has_session(self, session: str) -> bool:
        """Whether the server's database knows the session."""
        return (await self._send("GET", f"/session/{session}")).status == 200

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
        """The newest messages of a session as {info, parts}, oldest first; see `limits.AGENT_CONVERSATION`."""
        return await self._newest(session, _Room(limits.AGENT_CONVERSATION))

    async def changes(self) -> list[Event]:
        """What differs from the last commit, as {file, status, additions, deletions}."""
        return _objects(await self._call("GET", "/vcs/status"))

    async def todo(self, session: str) -> list[Event]:
        """The agent's todo list as {content, status, priority}."""
        return _objects(await self._call("GET", f"/session/{session}/todo"))

    async def export(self, session: str) -> dict[str, Any]:
        """The session as `opencode export` writes it: {info, messages}.

        Of one over `limits.AGENT_CONVERSATION` the newest messages, from a user's on.
        """
        answer = await self._send("GET", f"/session/{session}")
        info = _object(_decoded(answer))
        room = _Room(limits.AGENT_CONVERSATION)
        room.take(answer.body or b"")
        messages = await self._newest(session, room)
        if room.full:
            log.warning("conversation shortened", action="opencode.shortened", kept=len(messages))
            first = (at for at, one in enumerate(messages) if _object(one.get("info")).get("role") == "user")
            messages = messages[next(first, len(messages)) :]
        if room.full and not messages:
            raise OpenCodeError("the last turn of the conversation is longer than what is kept of one")
        return {"info": info, "messages": messages}

    async def busy(self, session: str) -> bool:
        """Whether a turn of the session is running (or waiting to retry its model call)."""
        states = _object(await self._call("GET", "/session/status", timeout=_LOOK_TIMEOUT))
        return bool(_object(states.get(session, {})).get("type", "idle") != "idle")

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
        room = _Room(limits.AGENT_CONVERSATION)
        messages = [message for one in sessions if not room.full for message in await self._newest(one, room)]
        pending = {kind: _objects(await self._call("GET", f"/{kind}")) for kind in ("permission", "question")}
        return {
            "type": RESYNC,
            "properties": {
                "sessions": sessions,
                "messages": messages,
                "busy": busy,
                "permissions": [one for one in pending["permission"] if one.get("sessionID") in sessions],
                "questions": [one for one in pending["question"] if one.get("sessionID") in sessions],
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
                    opened = True
                    # One that opens and breaks off at once is as good as none.
                    failures = failures if event["type"] == CONNECTED else 0
                said = "it was closed"
            except (OpenCodeError, *_READ_ERRORS) as error:
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
                if line.startswith(b"data:"):
                    event = _object(_parsed(line[5:], "GET /event"))
                    if not isinstance(event.get("type"), str):
                        raise OpenCodeError("GET /event sent an event without a type")
                    yield event

    async def _family(self, session: str) -> list[str]:
        """The session, and its subagents' below it."""
        found = {session: None}
        waiting = [session]
        while waiting:
            children = _objects(await self._call("GET", f"/session/{waiting.pop()}/children"))
            new = [key for key in map(_id, children) if key not in found]
            if len(found) + len(new) > limits.AGENT_SESSIONS:
                raise OpenCodeError(f"GET /session/{session}/children: more than {limits.AGENT_SESSIONS} subagents")
            found.update(dict.fromkeys(new))
            waiting += new
        return list(found)

    async def _newest(self, session: str, room: _Room) -> list[Event]:
        """Messages of a session, oldest first; of those that `room` has no place for, the newest."""
        pages: list[list[Event]] = []
        path, limit, before = f"/session/{session}/message", _PAGE, ""
        while True:
            query = {"limit": str(limit)} | ({"before": before} if before else {})
            answer = await self._send("GET", path, query=query)
            try:
                page = _objects(_decoded(answer))
                fits = room.take(answer.body or b"")
            except _TooMuch:
                page, fits = [], False
                if limit == 1:
                    # One that nobody can read must not hide those before it.
                    log.warning("message left out", action="opencode.message_left_out", session=session)
                    fits = room.take(b"")
            if not fits and limit > 1:
                limit //= _FEWER
                continue
            room.full = not fits
            if fits:
                pages.append(page)
            if room.full or not answer.next:
                return [message for page in reversed(pages) for message in page]
            before = answer.next

    async def _reply(self, path: str, body: Mapping[str, Any]) -> bool:
        answer = await self._send("POST", path, json=body)
        if answer.status in (400, 404):
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
        query: Mapping[str, str] | None = None,
        timeout: float = _CALL_TIMEOUT,
    ) -> _Answer:
        where = f"{method} {path}"
        try:
            async with (
                asyncio.timeout(_WHOLE * timeout),
                self._http.stream(method, path, json=json, params=query, timeout=timeout) as answer,
            ):
                return await _whole(answer, where)
        except TimeoutError as error:
            raise OpenCodeError(f"{where}: no whole answer within {_WHOLE * timeout:g} s") from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise OpenCodeError(f"{where}: {str(error) or type(error).__name__}") from error


class _TooMuch(OpenCodeError):
    """An answer is over its limit."""


@dataclass(frozen=True)
class _Answer:
    """`body` is None where it is over `limits.AGENT_MESSAGE`; `next` is where the next older page begins."""

    where: str
    status: int
    body: bytes | None = field(repr=False)
    next: str


class _Room:
    """What may still be read of a conversation; `full` once something had no place in it."""

    def __init__(self, limit: JsonLimit) -> None:
        self._bytes, self._values, self._pages = limit.bytes, limit.values, limits.AGENT_PAGES
        self.full = False

    def take(self, page: bytes) -> bool:
        """Whether there is room for it, which it then takes."""
        # Those within texts count too: that is fast, and never too low.
        values = sum(map(page.count, (b",", b"[", b"{")))
        if len(page) > self._bytes or values > self._values or not self._pages:
            return False
        self._bytes, self._values, self._pages = self._bytes - len(page), self._values - values, self._pages - 1
        return True


async def _whole(answer: httpx.Response, where: str) -> _Answer:
    """The answer with its body read, as far as its limit allows."""
    limit = limits.AGENT_MESSAGE.bytes if answer.is_success else limits.AGENT_ERROR
    body = bytearray()
    async for piece in _raw(answer, where):
        body += piece
        if len(body) > limit:
            break
    over = answer.is_success and len(body) > limit
    following = answer.headers.get("x-next-cursor", "")
    return _Answer(where, answer.status_code, None if over else bytes(body[:limit]), following)


async def _raw(answer: httpx.Response, where: str) -> AsyncIterator[bytes]:
    """The body in pieces.

    Raises:
        OpenCodeError: it is compressed, which OpenCode does for nobody who does not ask for it.
    """
    encoding = answer.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise OpenCodeError(f"{where} answered with content encoding {encoding[:40]!r}; it was asked for none")
    async for piece in answer.aiter_raw():
        yield piece


async def _lines(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The lines of a stream.

    Raises:
        OpenCodeError: one is over `limits.AGENT_MESSAGE`.
    """
    begun = bytearray()
    async for data in _raw(answer, "GET /event"):
        *complete, rest = data.split(b"\n")
        for line in complete:
            begun += line
            yield bytes(begun.removesuffix(b"\r"))
            begun.clear()
        begun += rest
        if len(begun) > limits.AGENT_MESSAGE.bytes:
            raise _TooMuch(f"GET /event sent an event of more than {limits.AGENT_MESSAGE.bytes} bytes")


def _decoded(answer: _Answer) -> Any:  # noqa: ANN401 - JSON of another program
    if answer.body is None:
        raise _TooMuch(f"{answer.where} answered more than {limits.AGENT_MESSAGE.bytes} bytes")
    if not 200 <= answer.status < 300:
        said = answer.body[:300].decode("utf-8", "replace")
        raise OpenCodeError(f"{answer.where} answered {answer.status}: {said}")
    return _parsed(answer.body, answer.where) if answer.body else None


def _parsed(data: bytes, where: str) -> Any:  # noqa: ANN401 - JSON of another program
    try:
        return parse_json(data, limits.AGENT_MESSAGE, where)
    except OverLimit as error:
        raise _TooMuch(str(error)) from None
    except InvalidJson as error:
        raise OpenCodeError(str(error)) from None


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise OpenCodeError(f"OpenCode sent {type(value).__name__} where an object belongs")
    return value


def _objects(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise OpenCodeError(f"OpenCode sent {type(value).__name__} where a list belongs")
    return [_object(one) for one in value]


def _id(value: Mapping[str, Any]) -> str:
    """The id of an object; it becomes part of a path."""
    found = value.get("id")
    if not isinstance(found, str) or not _ID.fullmatch(found):
        raise OpenCodeError("OpenCode sent an id that is none")
    return found
