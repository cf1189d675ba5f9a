"""The scripted agent's sessions: stored messages, events, waiting requests, and the routes that serve them."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import time
from fnmatch import fnmatchcase
from typing import Any

from scripted_http import Answer, Page, Request, Stream
from scripted_steps import play

HERE = os.path.dirname(os.path.realpath(__file__))
_counter = itertools.count(1)


def new_id(prefix: str) -> str:
    """Ascending, like OpenCode's."""
    return f"{prefix}_{time.time_ns() // 1000:014x}{next(_counter):06x}"


def now() -> int:
    return int(time.time() * 1000)


def imported_path(session: str) -> str:
    """Where `opencode import` keeps a session: in the home that the server shares."""
    return os.path.join(os.environ["HOME"], ".scripted", os.path.basename(session) + ".json")


class Session:
    """One session and its running turn."""

    def __init__(self, server: Server, directory: str, body: dict[str, Any]) -> None:
        self.server = server
        self.directory = directory
        self.id = new_id("ses")
        self.title = body.get("title", "")
        self.rules: list[dict[str, str]] = body.get("permission") or []
        self.messages: dict[str, dict[str, Any]] = {}
        self.todos: list[dict[str, str]] = []
        self.status: dict[str, Any] = {"type": "idle"}
        self.turn: asyncio.Task[None] | None = None
        self.message = ""

    @classmethod
    def imported(cls, server: Server, directory: str, exported: dict[str, Any]) -> Session:
        """What `opencode import` took in an earlier process of this home."""
        session = cls(server, directory, exported["info"])
        session.id = exported["info"]["id"]
        for one in exported["messages"]:
            session.messages[one["info"]["id"]] = {
                "info": one["info"],
                "parts": {part["id"]: part for part in one["parts"]},
            }
        return session

    def said(self, role: str) -> list[str]:
        """The texts of that role so far, oldest first."""
        messages = [one for one in self.messages.values() if one["info"]["role"] == role]
        return [part["text"] for one in messages for part in one["parts"].values() if part["type"] == "text"]

    def info(self) -> dict[str, Any]:
        return {"id": self.id, "title": self.title, "permission": self.rules, "version": self.server.version}

    def action(self, permission: str, pattern: str) -> str:
        """What the session's rules say; the last that matches decides."""
        for rule in reversed(self.rules):
            if fnmatchcase(permission, rule["permission"]) and fnmatchcase(pattern, rule["pattern"]):
                return rule["action"]
        return "allow"

    def emit(self, type: str, **properties: Any) -> None:
        self.server.emit(type, {"sessionID": self.id, **properties})

    def set_status(self, **status: Any) -> None:
        self.status = status
        self.emit("session.status", status=status)
        if status["type"] == "idle":
            self.emit("session.idle")

    def page(self, limit: int, before: str) -> Page:
        """The newest `limit` messages of those before the one with the id `before`; 0: all."""
        keys = list(self.messages)
        end = keys.index(before) if before else len(keys)
        start = max(0, end - limit) if limit else 0
        stored = [self.messages[key] for key in keys[start:end]]
        items = [{"info": one["info"], "parts": list(one["parts"].values())} for one in stored]
        return Page(items, keys[start] if start else "")

    def put_message(self, role: str, **more: Any) -> str:
        info = {"id": new_id("msg"), "role": role, "sessionID": self.id, "time": {"created": now()}, **more}
        self.messages[info["id"]] = {"info": info, "parts": {}}
        self.emit("message.updated", info=info)
        return str(info["id"])

    def put_part(self, part: dict[str, Any]) -> dict[str, Any]:
        """Store a part of the current message and tell it; deltas alone are told but not stored."""
        part = {"id": new_id("prt"), "messageID": self.message, "sessionID": self.id, **part}
        self.messages[part["messageID"]]["parts"][part["id"]] = part
        self.emit("message.part.updated", part=part, time=now())
        return part

    def finish(self, error: dict[str, Any] | None = None) -> None:
        info = self.messages[self.message]["info"]
        info["time"]["completed"] = now()
        if error:
            info["error"] = error
            self.emit("session.error", error=error)
        self.emit("message.updated", info=info)

    async def run(self, prompt: str) -> None:
        self.message = self.put_message("user")
        self.put_part({"type": "text", "text": prompt})
        self.set_status(type="busy")
        self.message = self.put_message("assistant")
        error = None
        try:
            error = await play(self, steps_of(prompt))
        except asyncio.CancelledError:
            error = {"name": "MessageAbortedError", "data": {"message": "Aborted"}}
        except Exception as mistake:
            error = {"name": "ScenarioError", "data": {"message": repr(mistake)}}
        self.finish(error)
        self.set_status(type="idle")


def steps_of(prompt: str) -> list[dict[str, Any]]:
    """The steps that a prompt asks for."""
    if "[[steps]]" in prompt:
        return list(json.JSONDecoder().raw_decode(prompt.split("[[steps]]", 1)[1].strip())[0])
    named = re.search(r"\[\[scenario:([a-z0-9-]+)\]\]", prompt)
    with open(os.path.join(HERE, "scenarios", f"{named[1] if named else 'default'}.json")) as file:
        return list(json.load(file))


class Server:
    """All sessions of one process."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.sessions: dict[str, Session] = {}
        self.streams: list[Stream] = []
        self.refuse_streams = False
        self.deaf = False
        self.waiting: dict[str, tuple[str, dict[str, Any], asyncio.Future[Any]]] = {}

    def emit(self, type: str, properties: dict[str, Any]) -> None:
        event = {"id": new_id("evt"), "type": type, "properties": properties}
        # Serialised now: later changes of a stored part must not show in an event that was already sent.
        frozen = json.loads(json.dumps(event))
        for stream in self.streams:
            stream.queue.put_nowait(frozen)

    def close_streams(self) -> None:
        for stream in self.streams:
            stream.queue.put_nowait(None)
        self.streams.clear()

    async def ask(self, kind: str, session: Session, request: dict[str, Any]) -> Any:
        """Wait for an answer to a permission or question request."""
        request = {"id": new_id("per" if kind == "permission" else "que"), "sessionID": session.id, **request}
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting[request["id"]] = (kind, request, future)
        self.emit(f"{kind}.asked", request)
        try:
            return await future
        finally:
            self.waiting.pop(request["id"], None)

    async def handle(self, request: Request) -> Answer:
        if self.deaf:
            await asyncio.Event().wait()
        parts = request.path.strip("/").split("/")
        if request.path == "/global/health":
            return 200, {"healthy": True, "version": self.version}
        if request.path == "/event":
            return self._stream()
        if request.path == "/vcs/status":
            return 200, []
        if parts[0] in ("permission", "question"):
            return self._requests(parts, request)
        if parts[0] == "session":
            return await self._session(parts, request)
        return 404, {"message": f"no route {request.path}"}

    def _stream(self) -> Answer:
        if self.refuse_streams:
            return 503, {"message": "no streams"}
        stream = Stream()
        stream.queue.put_nowait({"id": new_id("evt"), "type": "server.connected", "properties": {}})
        self.streams.append(stream)
        return stream

    def _requests(self, parts: list[str], request: Request) -> Answer:
        if len(parts) == 1:
            return 200, [one for kind, one, _ in self.waiting.values() if kind == parts[0]]
        if parts[1] not in self.waiting:
            return 404, {"message": "not found"}
        kind, asked, future = self.waiting[parts[1]]
        body = request.body or {}
        what = "rejected" if parts[2] == "reject" else "replied"
        self.emit(f"{kind}.{what}", {"sessionID": asked["sessionID"], "requestID": asked["id"], **body})
        future.set_result(body.get("reply") or body.get("answers"))
        return 200, True

    async def _session(self, parts: list[str], request: Request) -> Answer:
        if len(parts) == 1:
            session = Session(self, request.directory, request.body or {})
            self.sessions[session.id] = session
            self.emit("session.created", {"sessionID": session.id, "info": session.info()})
            return 200, session.info()
        if parts[1] == "status":
            return 200, {key: one.status for key, one in self.sessions.items() if one.status["type"] != "idle"}
        session = self.sessions.get(parts[1]) or self._imported(parts[1], request.directory)
        if session is None:
            return 404, {"message": "no such session"}
        return await self._of_session(session, request.method, parts[2] if len(parts) > 2 else "", request)

    def _imported(self, id_: str, directory: str) -> Session | None:
        path = imported_path(id_)
        if not os.path.exists(path):
            return None
        with open(path) as file:
            self.sessions[id_] = Session.imported(self, directory, json.load(file))
        return self.sessions[id_]

    async def _of_session(self, session: Session, method: str, what: str, request: Request) -> Answer:
        if what == "prompt_async":
            text = "".join(part.get("text", "") for part in request.body["parts"])
            session.turn = asyncio.create_task(session.run(text))
            return 204, None
        if what == "abort":
            if session.turn is not None and not session.turn.done():
                session.turn.cancel()
                await asyncio.wait({session.turn})
            return 200, True
        if what == "message":
            return session.page(*request.page)
        if what == "todo":
            return 200, session.todos
        if what == "children":
            return 200, []
        if method == "PATCH":
            session.rules += request.body.get("permission") or []
        if method == "DELETE":
            del self.sessions[session.id]
            return 200, True
        return 200, session.info()
