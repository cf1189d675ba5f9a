"""`DRY_RUN=1`: functions on in-memory dependencies, for `ocf replay --to` and debugging, without external effects.

The posted commands build the state in their order: the recorded submit creates the record that the recorded execute
needs. Objects in commands are read from S3 if it is configured; writes stay in memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ocf.events.adapters.memory_bus import MemoryBucket
from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.envelope import decode
from ocf.events.errors import InvalidEvent
from ocf.events.event_types import TYPES
from ocf.events.ports import Bus, Clock, Entry, ObjectInfo, ObjectStore
from ocf.events.session_record import Session


class DryStore(MemoryStore):
    """Object store in memory that reads missing objects from `fallback`, and never writes to it."""

    def __init__(self, fallback: ObjectStore | None) -> None:
        super().__init__()
        self._fallback = fallback
        self._removed: list[str] = []

    def _below(self, key: str) -> ObjectStore | None:
        hidden = key in self.objects or any(key.startswith(prefix) for prefix in self._removed)
        return None if hidden else self._fallback

    async def get(self, key: str) -> bytes:
        """Implement `ObjectStore.get`."""
        below = self._below(key)
        return await (below.get(key) if below else super().get(key))

    async def stream(self, key: str, *, chunk: int = 1024 * 1024) -> AsyncIterator[bytes]:
        """Implement `ObjectStore.stream`."""
        below = self._below(key)
        async for piece in below.stream(key, chunk=chunk) if below else super().stream(key, chunk=chunk):
            yield piece

    async def head(self, key: str) -> ObjectInfo | None:
        """Implement `ObjectStore.head`."""
        below = self._below(key)
        return await (below.head(key) if below else super().head(key))

    async def delete_prefix(self, prefix: str) -> int:
        """Implement `ObjectStore.delete_prefix`."""
        self._removed.append(prefix)
        return await super().delete_prefix(prefix)


class DrySessions(MemoryBucket):
    """Bucket in which every session exists, open and empty, as the execution's events do not include its create."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._time = clock

    async def get(self, key: str) -> Entry | None:
        """Implement `Bucket.get`."""
        found = await super().get(key)
        if found is not None:
            return found
        now, (project, session) = self._time.now(), key.split(".")
        made = Session(
            session_id=session,
            project_id=project,
            created_at=now,
            updated_at=now,
            expires_at=now + timedelta(days=1),
            ttl_seconds=86_400,
        )
        revision = await self.create(key, made.model_dump_json(exclude_defaults=True).encode())
        return Entry(key, made.model_dump_json(exclude_defaults=True).encode(), revision)


class EventRouter:
    """ASGI app that publishes each event on the bus, as its publisher did, and passes it to its function."""

    def __init__(self, bus: Bus, functions: Mapping[str, ASGIApp]) -> None:
        self._bus = bus
        self._functions = functions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Publish the event of a request, then call its function; answer 400 for an invalid event."""
        if scope["type"] != "http":
            return
        body = await _body(receive)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            verb = await self._publish(headers, body)
        except InvalidEvent as error:
            await PlainTextResponse(str(error), 400)(scope, receive, send)
            return
        function = self._functions.get(verb)
        if function is None:
            text = f"{verb}: published on the bus; no function of this process takes it"
            await PlainTextResponse(text, 202)(scope, receive, send)
            return
        # The event had not expired when it was recorded.
        without_expiry = [(name, value) for name, value in scope["headers"] if name.lower() != b"ce-expirytime"]
        await function({**scope, "headers": without_expiry}, _replay_body(body, receive), send)

    async def _publish(self, headers: Mapping[str, str], body: bytes) -> str:
        event = decode(headers, body)
        subject = event.extensions.get("natssubject", "")
        if TYPES.get(event.type) is None or not subject.startswith("ocf.cmd."):
            raise InvalidEvent(f"type: {event.type[:120]!r} is not a command, or natssubject does not name its subject")
        event = replace(event, extensions={k: v for k, v in event.extensions.items() if not k.startswith("nats")})
        await self._bus.publish(subject, event.data, {**event.headers(), "Nats-Msg-Id": event.id})
        return subject.split(".")[2]


async def _body(receive: Receive) -> bytes:
    pieces: list[bytes] = []
    more = True
    while more:
        message = await receive()
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(pieces)


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields the body again, then further messages."""
    first: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Message:
        return first.pop() if first else await receive()

    return receiving
