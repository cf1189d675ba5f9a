"""A gateway over the in-memory adapters, an HTTP client for it, and a WebSocket without a socket."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx2
import jwt

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBucket, MemoryBus
from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.base_model import Model
from ocf.events.envelope import Event
from ocf.events.errors import Unavailable
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.lifecycle import State
from ocf.events.output import Chunk, ChunkType
from ocf.events.ports import Message
from ocf.events.reorder import gap_line
from ocf.functions.forges.credentials import ForgeCredentials
from ocf.functions.gateway.app import create_app
from ocf.functions.gateway.gateway_deps import GatewayDeps
from ocf.functions.gateway.settings import GatewaySettings
from tests.support.clock import ManualClock
from tests.support.database import memory_history

ID = "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11"
OTHER = "1c9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a22"
SECRET = "a-secret-of-at-least-thirty-two-bytes"
_LINE = b'{"seq":1,"type":"text","data":"x"}\n'
#: Archives that cannot be read, each for another reason.
DAMAGED = {
    "no gzip": b"hello",
    "spoilt": gzip.compress(_LINE * 2_000)[:60] + bytes(50),
    "cut": gzip.compress(os.urandom(200).hex().encode())[:-60],
    "no chunks": gzip.compress(b"hello\n"),
    "a bomb": gzip.compress(bytes(20 * 1024 * 1024)),
}


class World:
    """One gateway and everything around it. `client` calls it as a page of the same machine would."""

    def __init__(self, settings: GatewaySettings | None = None, **deps: Any) -> None:
        self.clock = ManualClock()
        self.bus = MemoryBus(self.clock)
        self.executions = MemoryBucket(self.clock)
        self.sessions = MemoryBucket(self.clock)
        self.triggers = MemoryBucket(self.clock)
        self.store = MemoryStore()
        self.history = memory_history()
        given = GatewayDeps(
            bus=self.bus,
            executions=self.executions,
            sessions=self.sessions,
            triggers=self.triggers,
            store=self.store,
            history=self.history,
            clock=self.clock,
            settings=settings or GatewaySettings(),
            credentials=ForgeCredentials(MemoryBucket(self.clock), self.clock),
        )
        self.deps = replace(given, **deps)
        self.app = create_app(self.deps)
        self.gateway = self.app.state.gateway
        self.client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(self.app, client=("127.0.0.1", 5000)), base_url="http://localhost:3003"
        )

    async def record(self, execution: str = ID, project: str = "default", **fields: Any) -> Record:
        """Put a record into the bucket and the history."""
        now = self.clock.now()
        record = Record(
            **{
                "execution_id": execution,
                "project_id": project,
                "state": State.RUNNING,
                "submitted_at": now,
                "updated_at": now,
                "timeout_seconds": 60,
                **fields,
            }
        )
        key = ExecutionRef(project, execution).record_key
        before = await self.executions.get(key)
        await self.executions.update(key, record.model_dump_json().encode(), before.revision if before else 0)
        with suppress(Unavailable):  # a test of a database that is away
            await self.deps.history.save(record)
        return record

    async def chunk(self, seq: int, data: str = "", type_: ChunkType = ChunkType.TEXT, execution: str = ID) -> bytes:
        """Publish one chunk of output; its JSON."""
        line = chunk(seq, self.clock.now(), data, type_)
        headers = {"ce-sequence": str(seq), "Nats-Msg-Id": f"{execution}:{seq}"}
        await self.bus.publish(subjects.output("default", execution), line, headers)
        return line

    async def fact(self, what: str, execution: str = ID) -> None:
        """Say a fact with nothing in it: the gateway looks at the record, not at the fact."""
        await self.bus.publish(subjects.fact("default", execution, what), b"{}", {})

    async def archive(
        self, chunks: int, execution: str = ID, *, hole: tuple[int, int] = (0, 0), stated: bool = True
    ) -> None:
        """Put an archived output of that many chunks into the store, without those of `hole`."""
        now = self.clock.now()
        lines = {seq: chunk(seq, now, f"a{seq}") for seq in range(1, chunks + 1) if not hole[0] <= seq <= hole[1]}
        if hole[0] and stated:
            lines[hole[0]] = gap_line(*hole, now, "lost").data
        packed = gzip.compress(b"".join(lines[seq] + b"\n" for seq in sorted(lines)))
        await self.store.put(f"default/{execution}/output.ndjson.gz", packed)

    async def evict(self, record: Record) -> None:
        """Leave of an ended execution what is in the archive."""
        manifest = {"version": 1, "record": json.loads(record.model_dump_json())}
        await self.store.put(record.ref.object_key("manifest.json"), json.dumps(manifest).encode())
        await self.executions.delete(record.ref.record_key)

    async def commands(self, verb: str) -> list[dict[str, Any]]:
        """The data of every command of `verb` on the bus."""
        subject = f"ocf.cmd.{verb}.*.*"
        return [json.loads(message.data) async for message in self.bus.history(subjects.COMMANDS, subject)]

    def socket(self, path: str, headers: dict[str, str] | None = None, protocols: tuple[str, ...] = ()) -> Socket:
        """A WebSocket to `path`."""
        return Socket(self.app, path, {"host": "localhost:3003", **(headers or {})}, protocols)


def chunk(seq: int, now: datetime, data: str = "", type_: ChunkType = ChunkType.TEXT) -> bytes:
    """A chunk as execute publishes it."""
    return Chunk(seq=seq, type=type_, data=data or f"c{seq}", timestamp=now).model_dump_json(exclude_none=True).encode()


def submit_event(data: Model, now: datetime) -> Event:
    """A submit as a backend would publish it."""
    return Event("dev.ocf.task.submit.v1", "/test", "1", now, data.model_dump_json(by_alias=True).encode())


def token(projects: object, *, now: datetime | None = None, ttl: float = 60, key: str = SECRET, **claims: Any) -> str:
    """An HS256 token; `now` is when it begins (PyJWT itself looks at the real clock)."""
    at = (now or datetime.now(UTC)) + timedelta(seconds=ttl)
    return jwt.encode({"sub": "ann", "projects": projects, "exp": at.timestamp(), **claims}, key, "HS256")


def bearer(projects: object, **claims: Any) -> dict[str, str]:
    """The header with such a token."""
    return {"Authorization": f"Bearer {token(projects, **claims)}"}


@contextmanager
def counted_alive(world: World) -> Iterator[list[int]]:
    """The most messages of the bus's histories that were alive at once, in a list of one."""
    history, given, most = world.bus.history, list[weakref.ref[Message]](), [0]

    async def counting(*args: Any, **more: Any) -> AsyncIterator[Message]:
        async for message in history(*args, **more):
            mine = replace(message)
            given.append(weakref.ref(mine))
            del message
            most[0] = max(most[0], sum(one() is not None for one in given))
            yield mine

    world.bus.history = counting  # type: ignore[method-assign]
    yield most
    world.bus.history = history  # type: ignore[method-assign]


class Socket:
    """The client's end of a WebSocket whose server end is an ASGI application."""

    def __init__(self, app: Any, path: str, headers: dict[str, str], protocols: tuple[str, ...]) -> None:
        parts = urlsplit(path)
        self._scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "root_path": "",
            "query_string": parts.query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 5000),
            "server": ("127.0.0.1", 3003),
            "subprotocols": list(protocols),
            "extensions": {"websocket.http.response": {}},
        }
        self._app = app
        self._in: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._out: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._reading = asyncio.Event()
        self._reading.set()

    async def __aenter__(self) -> Socket:
        await self._in.put({"type": "websocket.connect"})
        self._task = asyncio.ensure_future(self._app(self._scope, self._in.get, self._send))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.set()
        await self._in.put({"type": "websocket.disconnect", "code": 1000})
        async with asyncio.timeout(5):
            await self._task

    async def _send(self, message: dict[str, Any]) -> None:
        await self._reading.wait()
        await self._out.put(message)

    def stop_reading(self) -> None:
        """From now on nothing that is sent goes through."""
        self._reading.clear()

    def read_on(self) -> None:
        """Take what is sent again."""
        self._reading.set()

    async def next(self) -> dict[str, Any]:
        """The next ASGI message from the application."""
        async with asyncio.timeout(5):
            return await self._out.get()

    async def json(self) -> dict[str, Any]:
        """The next text message, parsed; the accept before it is skipped."""
        message = await self.next()
        if message["type"] == "websocket.accept":
            message = await self.next()
        assert message["type"] == "websocket.send", message
        parsed: dict[str, Any] = json.loads(message["text"])
        return parsed

    async def until_close(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Every text message up to the close, and the close."""
        said: list[dict[str, Any]] = []
        while True:
            message = await self.next()
            if message["type"] == "websocket.close":
                return said, message
            if message["type"] == "websocket.send":
                said.append(json.loads(message["text"]))
