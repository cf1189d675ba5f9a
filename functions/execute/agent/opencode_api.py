"""OpenCode 1.18's HTTP API: the only file that knows its paths and shapes (its own OpenAPI: `GET /doc`).

One server serves one execution. Every call names the directory, and every probe has its own short timeout: a request
that arrives between bind and the "listening on" line is accepted and never answered.

The server is under the agent's control, and any process that takes over its socket can answer instead. So no answer is
decompressed, and every answer has a size limit before it is parsed (`ocf.events.untrusted_json`).
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Literal

import httpx2
import structlog

from ocf.events import untrusted_json
from ocf.events.untrusted_json import InvalidJson, JsonLimit, OverLimit, parse_json
from ocf.functions.core.asyncio_tasks import run_together

log = structlog.get_logger()

Event = dict[str, Any]
PermissionReply = Literal["once", "always", "reject"]

#: Synthetic event after a reconnect and at the end: {"sessions": [id], "messages": [message], "busy": bool,
#: "permissions": [request], "questions": [request]}. It contains all that the closed stream may have lost.
RESYNC = "ocf.resync"
CONNECTED = "server.connected"
HEARTBEAT = "server.heartbeat"

#: The tool that OpenCode adds for an answer by schema.
STRUCTURED_TOOL = "StructuredOutput"

_USERNAME = "opencode"
_CALL_TIMEOUT = 15.0
_PROBE_TIMEOUT = 2.0
_LOOK_TIMEOUT = 5.0
#: Total time of a call as a multiple of the silence allowed in it: an answer that drips byte by byte counts as none.
_TOTAL_FACTOR = 4
#: Messages requested at once, and the divisor for smaller pages where those are too long together.
_PAGE, _FEWER = 64, 8
_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{untrusted_json.AGENT_ID}}}")
# The server sends `server.heartbeat` every 10 s: three missed ones mean a dead connection.
_STREAM_SILENCE = 35.0
_RECONNECT_DELAYS = (0.05, 0.2, 0.5, 1.0, 2.0)
_READ_ERRORS = (httpx2.TransportError, httpx2.StreamError, TimeoutError)


class OpenCodeError(Exception):
    """OpenCode refused a call or did not answer it."""


class StreamLostError(OpenCodeError):
    """The event stream closed and could not be opened again."""


@dataclass(frozen=True)
class FilePart:
    """A file of a user message; `url` is a data URL."""

    name: str
    media_type: str
    url: str = field(repr=False)

    def body(self) -> dict[str, str]:
        """Return the part as OpenCode takes it."""
        return {"type": "file", "mime": self.media_type, "filename": self.name, "url": self.url}


@dataclass(frozen=True)
class Prompt:
    """One user message; `system` is added to the system prompt."""

    text: str
    provider: str
    model: str
    system: str | None = None
    agent: str | None = None
    variant: str | None = None
    files: Sequence[FilePart] = ()


class OpenCode:
    """Client of the server at `base_url`, for one directory.

    Raises:
        OpenCodeError: from every method: no answer in time, or not a 2xx answer.
    """

    def __init__(
        self, base_url: str, directory: Path, password: str, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        # trust_env is off: a proxy variable of the function must not redirect loopback calls. They use no TLS; a
        # context with the authorities of the machine would cost 50 ms of processor time for each server.
        self._http = httpx2.AsyncClient(
            base_url=base_url,
            auth=(_USERNAME, password),
            params={"directory": str(directory)},
            timeout=httpx2.Timeout(_CALL_TIMEOUT, connect=_PROBE_TIMEOUT),
            headers={"accept-encoding": "identity"},
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            trust_env=False,
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            transport=transport,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def version(self) -> str:
        """Return the server's version once it reports healthy."""
        health = _object(await self._call("GET", "/global/health", timeout=_PROBE_TIMEOUT))
        if health.get("healthy") is not True:
            raise OpenCodeError("the server reports that it is not healthy")
        return str(health.get("version", ""))

    async def create_session(self, title: str, permissions: Sequence[Mapping[str, str]]) -> str:
        """Create a session. Its title is given, so that no model call is spent on one.

        `permissions` are rules {permission, pattern, action}; the last matching one decides.
        """
        body = {"title": title, "permission": [dict(rule) for rule in permissions]}
        return _id(_object(await self._call("POST", "/session", json=body)))

    async def set_permissions(self, session: str, permissions: Sequence[Mapping[str, str]]) -> None:
        """Give an existing session rules that override those it has."""
        await self._call("PATCH", f"/session/{session}", json={"permission": [dict(rule) for rule in permissions]})

    async def has_session(self, session: str) -> bool:
        """Return whether the server's database has the session."""
        return (await self._send("GET", f"/session/{session}")).status == 200

    async def prompt(self, session: str, prompt: Prompt) -> None:
        """Start a prompt; its output arrives as events."""
        await self._call("POST", f"/session/{session}/prompt_async", json=_message(prompt))

    async def structured(self, session: str, prompt: Prompt, schema: Mapping[str, Any]) -> object:
        """Ask for an answer by schema, with the conversation of `session` before it; return its value, or None.

        It is asked in a copy of the session: OpenCode 1.18 cannot read a session any more in which a message has a
        schema. The copy has no other tool.
        """
        copy = _id(_object(await self._call("POST", f"/session/{session}/fork", json={})))
        try:
            rules = (("*", "deny"), (STRUCTURED_TOOL, "allow"))
            await self.set_permissions(copy, [{"permission": to, "pattern": "*", "action": do} for to, do in rules])
            body = {**_message(prompt), "format": {"type": "json_schema", "schema": schema, "retryCount": 0}}
            answer = _object(await self._call("POST", f"/session/{copy}/message", json=body, timeout=None))
            return _object(answer.get("info")).get("structured")
        finally:
            await self.delete_session(copy)

    async def command(self, session: str, name: str, arguments: str, prompt: Prompt) -> None:
        """Run a command of the configuration; returns when it is over. Its output arrives as events."""
        body = {"command": name, "arguments": arguments, "model": f"{prompt.provider}/{prompt.model}"}
        given = {"agent": prompt.agent, "variant": prompt.variant}
        body |= {key: value for key, value in given.items() if value}
        parts = [part.body() for part in prompt.files]
        await self._call("POST", f"/session/{session}/command", json={**body, "parts": parts}, timeout=None)

    async def add_mcp(self, name: str, server: Mapping[str, Any]) -> str | None:
        """Start an MCP server, or connect to it; return why that failed, or None."""
        body = {"name": name, "config": dict(server)}
        states = _object(await self._call("POST", "/mcp", json=body, timeout=None))
        state = _object(states.get(name, {}))
        if state.get("status") == "connected":
            return None
        return str(state.get("error") or state.get("status") or "unknown")[:500]

    async def remove_mcp(self, name: str) -> None:
        """Give up an MCP server."""
        await self._call("POST", f"/mcp/{name}/disconnect")

    async def abort(self, session: str) -> None:
        """Stop the prompt. Children of its shell tools may live on; the supervisor ends those."""
        await self._call("POST", f"/session/{session}/abort", timeout=_PROBE_TIMEOUT)

    async def delete_session(self, session: str) -> None:
        """Delete the session with its messages."""
        await self._call("DELETE", f"/session/{session}")

    async def messages(self, session: str) -> list[Event]:
        """Return the newest messages of a session as {info, parts}, oldest first; see `limits.AGENT_CONVERSATION`."""
        return await self._newest(session, _ReadBudget(untrusted_json.AGENT_CONVERSATION))

    async def todo(self, session: str) -> list[Event]:
        """Return the agent's todo list as {content, status, priority}."""
        return _objects(await self._call("GET", f"/session/{session}/todo"))

    async def export(self, session: str) -> dict[str, Any]:
        """Return the session in the format of `opencode export`: {info, messages}.

        Over `limits.AGENT_CONVERSATION` it has only the newest messages, starting with a user's.
        """
        answer = await self._send("GET", f"/session/{session}")
        info = _object(_decoded(answer))
        budget = _ReadBudget(untrusted_json.AGENT_CONVERSATION)
        budget.take(answer.body or b"")
        messages = await self._newest(session, budget)
        if budget.full:
            log.warning("conversation shortened", action="opencode.shortened", kept=len(messages))
            first = (at for at, one in enumerate(messages) if _object(one.get("info")).get("role") == "user")
            messages = messages[next(first, len(messages)) :]
        if budget.full and not messages:
            raise OpenCodeError("the last exchange of the conversation is larger than a stored conversation may be")
        return {"info": info, "messages": messages}

    async def final_state(self, session: str) -> tuple[Event, dict[str, Any] | None]:
        """Return the state of an idle session and its subagents' sessions, as a RESYNC event, and the conversation.

        Read in one round, since somebody waits for it. The conversation is what `export` returns, or None when it has
        to be read again: only a part of it fits, or the session's own entry cannot be read.
        """
        budget = _ReadBudget(untrusted_json.AGENT_CONVERSATION)
        read: list[Any] = await run_together(
            self._entry(session, budget), self._session_tree(session), self._newest(session, budget)
        )
        info, sessions, own = read
        conversation = None if info is None or budget.full else {"info": info, "messages": own}
        messages = own + await self._newest_of(sessions[1:], budget)
        state = {"sessions": sessions, "messages": messages, "busy": False, "permissions": [], "questions": []}
        return {"type": RESYNC, "properties": state}, conversation

    async def _entry(self, session: str, budget: _ReadBudget) -> dict[str, Any] | None:
        with suppress(OpenCodeError):
            answer = await self._send("GET", f"/session/{session}")
            info = _object(_decoded(answer))
            return info if budget.take(answer.body or b"") else None
        return None

    async def busy(self, session: str) -> bool:
        """Return whether a prompt of the session is running (or waiting to retry its model call)."""
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
        """Return the current state of the session and its subagents' sessions, as a RESYNC event."""
        # Busy is read first: later changes can only make the messages newer than the busy state.
        busy = await self.busy(session)
        kinds = ("permission", "question")
        sessions, *requests = await run_together(
            self._session_tree(session), *(self._call("GET", f"/{kind}") for kind in kinds)
        )
        budget = _ReadBudget(untrusted_json.AGENT_CONVERSATION)
        messages = await self._newest_of(sessions, budget)
        pending = dict(zip(kinds, map(_objects, requests), strict=True))
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

    async def events(self, session: Callable[[], str]) -> AsyncIterator[Event]:
        """Yield every event from now on, CONNECTED first. After a reconnect a RESYNC event of the session follows.

        Args:
            session: returns the id of the session, "" before there is one.

        Raises:
            StreamLostError: the stream closed, and five tries to open it again failed.
        """
        failures, opened = 0, False
        while True:
            try:
                async for event in self._stream():
                    if event["type"] == CONNECTED and opened and session():
                        # The stream opens before the messages are read, so nothing falls between the two.
                        yield await self.resync(session())
                    else:
                        yield event
                    opened = True
                    # A stream that opens and breaks off at once counts as a failure.
                    failures = failures if event["type"] == CONNECTED else 0
                message = "it was closed"
            except (OpenCodeError, *_READ_ERRORS) as error:
                message = str(error) or type(error).__name__
            if failures == len(_RECONNECT_DELAYS):
                raise StreamLostError(f"the event stream was lost and could not be opened again: {message}")
            await asyncio.sleep(_RECONNECT_DELAYS[failures])
            failures += 1

    async def _stream(self) -> AsyncIterator[Event]:
        timeout = httpx2.Timeout(_PROBE_TIMEOUT, read=_STREAM_SILENCE)
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

    async def _session_tree(self, session: str) -> list[str]:
        """Return the session and the sessions of its subagents."""
        found = {session: None}
        waiting = [session]
        while waiting:
            children = _objects(await self._call("GET", f"/session/{waiting.pop()}/children"))
            new = [key for key in map(_id, children) if key not in found]
            if len(found) + len(new) > untrusted_json.AGENT_SESSIONS:
                raise OpenCodeError(
                    f"GET /session/{session}/children: more than {untrusted_json.AGENT_SESSIONS} subagents"
                )
            found.update(dict.fromkeys(new))
            waiting += new
        return list(found)

    async def _newest(self, session: str, budget: _ReadBudget) -> list[Event]:
        """Return the messages of a session, oldest first; the newest ones when the budget does not hold all."""
        pages: list[list[Event]] = []
        path, limit, before = f"/session/{session}/message", _PAGE, ""
        while True:
            query = {"limit": str(limit)} | ({"before": before} if before else {})
            answer = await self._send("GET", path, query=query)
            try:
                page = _objects(_decoded(answer))
                fits = budget.take(answer.body or b"")
            except _TooLarge:
                page, fits = [], False
                if limit == 1:
                    # An unreadable message must not hide the older ones.
                    log.warning("message left out", action="opencode.message_left_out", session=session)
                    fits = budget.take(b"")
            if not fits and limit > 1:
                limit //= _FEWER
                continue
            budget.full = not fits
            if fits:
                pages.append(page)
            if budget.full or not answer.next:
                return [message for page in reversed(pages) for message in page]
            before = answer.next

    async def _newest_of(self, sessions: Sequence[str], budget: _ReadBudget) -> list[Event]:
        return [message for one in sessions if not budget.full for message in await self._newest(one, budget)]

    async def _reply(self, path: str, body: Mapping[str, Any]) -> bool:
        answer = await self._send("POST", path, json=body)
        if answer.status in (400, 404):
            return False
        return bool(_decoded(answer))

    async def _call(self, method: str, path: str, *, json: object = None, timeout: float | None = _CALL_TIMEOUT) -> Any:  # noqa: ANN401 - JSON of another program; a transport timeout
        return _decoded(await self._send(method, path, json=json, timeout=timeout))

    async def _send(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        query: Mapping[str, str] | None = None,
        timeout: float | None = _CALL_TIMEOUT,
    ) -> _Answer:
        where = f"{method} {path}"
        try:
            async with (
                asyncio.timeout(_TOTAL_FACTOR * timeout if timeout is not None else None),
                self._http.stream(method, path, json=json, params=query, timeout=timeout) as answer,
            ):
                return await _read_answer(answer, where)
        except TimeoutError as error:
            raise OpenCodeError(f"{where}: no whole answer within {_TOTAL_FACTOR * (timeout or 0):g} s") from error
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise OpenCodeError(f"{where}: {str(error) or type(error).__name__}") from error


class _TooLarge(OpenCodeError):
    """An answer exceeds its limit."""


@dataclass(frozen=True)
class _Answer:
    """`body` is None where it exceeds `limits.AGENT_MESSAGE`; `next` is the cursor of the next older page."""

    where: str
    status: int
    body: bytes | None = field(repr=False)
    next: str


class _ReadBudget:
    """Remaining size of a conversation that may be read; `full` once a page did not fit."""

    def __init__(self, limit: JsonLimit) -> None:
        self._bytes, self._values, self._pages = limit.bytes, limit.values, untrusted_json.AGENT_PAGES
        self.full = False

    def take(self, page: bytes) -> bool:
        """Charge a page to the budget and return whether it fits."""
        # Separators within texts count too: that is fast, and never too low.
        values = sum(map(page.count, (b",", b"[", b"{")))
        if len(page) > self._bytes or values > self._values or not self._pages:
            return False
        self._bytes, self._values, self._pages = self._bytes - len(page), self._values - values, self._pages - 1
        return True


def _message(prompt: Prompt) -> dict[str, Any]:
    given = {"system": prompt.system, "agent": prompt.agent, "variant": prompt.variant}
    return {
        "model": {"providerID": prompt.provider, "modelID": prompt.model},
        "parts": [{"type": "text", "text": prompt.text}, *(part.body() for part in prompt.files)],
        **{name: value for name, value in given.items() if value},
    }


async def _read_answer(answer: httpx2.Response, where: str) -> _Answer:
    """Read the answer's body, as far as its limit allows."""
    limit = untrusted_json.AGENT_MESSAGE.bytes if answer.is_success else untrusted_json.AGENT_ERROR
    body = bytearray()
    async for piece in _raw(answer, where):
        body += piece
        if len(body) > limit:
            break
    over = answer.is_success and len(body) > limit
    following = answer.headers.get("x-next-cursor", "")
    return _Answer(where, answer.status_code, None if over else bytes(body[:limit]), following)


async def _raw(answer: httpx2.Response, where: str) -> AsyncIterator[bytes]:
    """Yield the body in pieces.

    Raises:
        OpenCodeError: it is compressed, which OpenCode never does unasked.
    """
    encoding = answer.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise OpenCodeError(f"{where} answered with content encoding {encoding[:40]!r}; it was asked for none")
    async for piece in answer.aiter_raw():
        yield piece


async def _lines(answer: httpx2.Response) -> AsyncIterator[bytes]:
    """Yield the lines of a stream.

    Raises:
        OpenCodeError: a line exceeds `limits.AGENT_MESSAGE`.
    """
    begun = bytearray()
    async for data in _raw(answer, "GET /event"):
        *complete, rest = data.split(b"\n")
        for line in complete:
            begun += line
            yield bytes(begun.removesuffix(b"\r"))
            begun.clear()
        begun += rest
        if len(begun) > untrusted_json.AGENT_MESSAGE.bytes:
            raise _TooLarge(f"GET /event sent an event of more than {untrusted_json.AGENT_MESSAGE.bytes} bytes")


def _decoded(answer: _Answer) -> Any:  # noqa: ANN401 - JSON of another program
    if answer.body is None:
        raise _TooLarge(f"{answer.where} answered more than {untrusted_json.AGENT_MESSAGE.bytes} bytes")
    if not 200 <= answer.status < 300:
        message = answer.body[:300].decode("utf-8", "replace")
        raise OpenCodeError(f"{answer.where} answered {answer.status}: {message}")
    return _parsed(answer.body, answer.where) if answer.body else None


def _parsed(data: bytes, where: str) -> Any:  # noqa: ANN401 - JSON of another program
    try:
        return parse_json(data, untrusted_json.AGENT_MESSAGE, where)
    except OverLimit as error:
        raise _TooLarge(str(error)) from None
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
    """Return the id of an object, checked because it becomes part of a path."""
    found = value.get("id")
    if not isinstance(found, str) or not _ID.fullmatch(found):
        raise OpenCodeError("OpenCode sent an invalid id")
    return found
