"""The model proxy's seam to the recording: parts of a request, the answer as the agent gets it, the line of a call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ocf.events.redaction import MASK
from ocf.functions.execute.model_proxy import gemini
from ocf.functions.execute.model_proxy.api_formats import CONVERSATION
from ocf.functions.execute.model_proxy.budget import Call
from ocf.functions.execute.model_proxy.http_server import Reply
from ocf.functions.execute.model_proxy.string_placeholders import Elided
from ocf.functions.models.catalog import Wire
from ocf.functions.recording.canonical import RawPart
from ocf.functions.recording.line_types import CallLine
from ocf.functions.recording.model_call_recorder import Tape

#: The field of a request that holds the system prompt.
_SYSTEM = {"responses": "instructions", "messages": "system", "gemini": "systemInstruction"}
_SYSTEM_ROLES = ("system", "developer")
_MASK = MASK.encode()


def raw_parts(wire: Wire, elided: Elided, body: Mapping[str, Any]) -> Iterator[RawPart]:
    """Yield the parts of a request: system prompt, tools, messages. One at a time: a conversation is megabytes."""
    if wire == "gemini":
        body = gemini.normal(body)
    messages = body.get(CONVERSATION[wire])
    if not isinstance(messages, list):
        messages = [messages]
    roles = [one.get("role") if isinstance(one, dict) else None for one in messages]
    if body.get(_SYSTEM.get(wire, "")):
        yield RawPart("system", elided.put_back(body[_SYSTEM[wire]]))
    yield from (
        RawPart("system", elided.put_back(one))
        for one, role in zip(messages, roles, strict=True)
        if role in _SYSTEM_ROLES
    )
    if body.get("tools"):
        yield RawPart("tools", elided.put_back(body["tools"]))
    yield from (
        RawPart("message", elided.put_back(one))
        for one, role in zip(messages, roles, strict=True)
        if role not in _SYSTEM_ROLES
    )


def was_redacted(received: bytes, sent: bytes) -> bool:
    """Return whether a redaction changed a piece of an answer."""
    return sent.count(_MASK) > received.count(_MASK)


class RecordedReply(Reply):
    """A reply that is noted on a tape as it passes."""

    def __init__(self, reply: Reply, tape: Tape) -> None:
        # Both know when the answer has begun: the server asks the one, the call the other.
        self._reply = reply
        self._connection = reply._connection
        self.before = reply.before
        self._tape = tape

    @property
    def started(self) -> bool:
        """Return whether the head was sent."""
        return self._reply.started

    @started.setter
    def started(self, value: bool) -> None:
        self._reply.started = value

    async def start(
        self, status: int, content_type: str, length: int | None = None, more: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send the head."""
        self._tape.head(status, content_type, more)
        await super().start(status, content_type, length, more)

    async def send(self, data: bytes) -> None:
        """Send a piece of the body."""
        self._tape.note(data)
        await super().send(data)


def call_line(
    wire: Wire, call: Call, *, broken: bool = False, unusable: str | None = None, failure: tuple[str, str] | None = None
) -> CallLine:
    """Return the line of an ended call, without what its tape holds."""
    first = call.first_byte_seconds
    return CallLine(
        number=call.number,
        wire=wire,
        request=[],
        outcome=call.outcome or "failed",
        broken=broken,
        unusable=unusable,
        reason=failure[0] if failure else None,
        message=failure[1] if failure else None,
        tries=call.tries,
        first_byte_ms=None if first is None else round(first * 1000),
        provider_status=call.status,
        usage=call.usage,
        estimated=call.estimated,
    )
