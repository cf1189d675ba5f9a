"""Lines of a recording. `docs/reference/recording.md` is their contract; a new meaning of a line is a new `VERSION`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import zstandard
from pydantic import Field, TypeAdapter

from ocf.events.base_model import ExecutionId, ForwardCompatible
from ocf.events.output import Usage
from ocf.events.untrusted_json import MIB

VERSION = 1
#: Object of the archive, and folder of the objects that it is joined from.
NAME, PARTS = "model.ndjson.zst", "model/"
#: Bytes that a recording holds: of one answer, of the text of one part, and of all lines of an attempt.
ANSWER_BYTES, TEXT_BYTES, ATTEMPT_BYTES = 8 * MIB, MIB, 64 * MIB

Holds = Literal["answers", "full"]
Kind = Literal["system", "message", "tools"]
Number = Annotated[int, Field(ge=0, le=10_000_000)]


class Line(ForwardCompatible):
    """One line. Readers ignore types and fields that they do not know."""

    type: str


class Head(Line):
    """The first line of an attempt. `key` is the random key of its hashes (ADR 0023)."""

    type: Literal["attempt"] = "attempt"
    version: int = VERSION
    attempt: Number
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
    holds: Holds
    agent: str = Field("", description="agent and version")
    model: dict[str, Any] = Field({}, description="facts of the model that the agent got")
    workspace: str = Field("", description="path of the workspace")
    home: str = Field("", description="the agent's HOME")
    answer_bytes: int = ANSWER_BYTES
    text_bytes: int = TEXT_BYTES
    attempt_bytes: int = ATTEMPT_BYTES
    rerun_of: ExecutionId | None = None


class Inputs(Line):
    """The beginning of the attempt, as far as it is known."""

    type: Literal["inputs"] = "inputs"
    source: str = Field("", description="kind of the workspace's source")
    workspace: dict[str, Any] | None = Field(None, description="that source, without its token")
    commit: str | None = Field(None, description="the commit that a clone checked out")
    workspace_of: ExecutionId | None = Field(None, description="the execution whose stored workspace it began from")
    conversation_of: ExecutionId | None = Field(None, description="the execution whose conversation it continued")


class Part(Line):
    """A part of a request, once: the system prompt, a message, the tools. Calls name it by its number."""

    type: Literal["part"] = "part"
    number: Number
    kind: Kind
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    bytes: Number
    text: str | None = Field(None, description="canonical JSON after redaction; only in a `full` recording")


class CallLine(Line):
    """One call: the parts of its request, and the answer as the agent got it."""

    type: Literal["call"] = "call"
    number: Number
    wire: Literal["chat", "responses", "messages", "gemini"]
    request: list[tuple[Number, Number]] = Field(description="its parts: ranges of numbers, both ends included")
    outcome: Literal["ok", "passed", "failed", "cut", "refused", "gone"]
    status: int | None = Field(None, description="HTTP status that the agent got; null: none")
    content_type: str = ""
    answer: str = Field("", description="body of the answer after redaction")
    times: list[tuple[Number, Number]] = Field([], description="milliseconds since the call began, bytes until then")
    redacted: bool = Field(False, description="a redaction changed the answer")
    broken: bool = Field(False, description="the answer broke off")
    unusable: str | None = Field(None, description="why the agent could not use it")
    reason: str | None = Field(None, description="reason of the failure that it ended the execution with")
    message: str | None = None
    tries: int = 0
    started_ms: Number = 0
    ms: Number = 0
    first_byte_ms: Number | None = None
    provider_status: int | None = None
    usage: Usage = Usage()
    estimated: bool = False


class Exchange(Line):
    """A request to a remote MCP server or a secret's URL, and the answer as the agent got it."""

    type: Literal["exchange"] = "exchange"
    number: Number = Field(description="in the order of their beginnings, over all routes")
    route: Annotated[str, Field(max_length=200, description="`mcp.NAME` or `secrets.NAME`")]
    method: Annotated[str, Field(max_length=20)]
    target: str = Field(description="path and query below the URL, after redaction")
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="of the body, as that of a part")]
    rpc_id: str | int | None = Field(None, description="the `id` of a JSON-RPC request, which is not hashed")
    outcome: Literal["ok", "cut", "refused", "gone"] = "ok"
    status: int | None = Field(None, ge=200, le=599, description="HTTP status that the agent got; null: none")
    content_type: str = ""
    headers: list[tuple[str, str]] = Field([], max_length=100, description="further headers of the answer")
    answer: str = ""
    base64: bool = Field(False, description="`answer` is base64: it is no UTF-8")
    redacted: bool = Field(False, description="the answer had a secret in it")
    started_ms: Number = 0
    ms: Number = 0


class Reply(Line):
    """An answer that somebody gave to the agent."""

    type: Literal["reply"] = "reply"
    request: Number = Field(description="which request of the attempt it answers, from 1 on; 0: a follow-up prompt")
    hash: Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$", description="of what the request asks")] = ""
    answer: str | None = Field(None, description="null: nobody answered in time, so it was denied")
    calls: Number = Field(0, description="model calls that had begun before it")


class Gap(Line):
    """Calls that are not recorded, and why."""

    type: Literal["gap"] = "gap"
    calls: list[Number]
    why: str


class End(Line):
    """The last line, written by the archive function. `requests` counts the calls of all attempts."""

    type: Literal["end"] = "end"
    requests: Number


AnyLine = Annotated[Head | Inputs | Part | CallLine | Exchange | Reply | Gap | End, Field(discriminator="type")]
LINE: TypeAdapter[AnyLine] = TypeAdapter(AnyLine)
TYPES = frozenset(("attempt", "inputs", "part", "call", "exchange", "reply", "gap", "end"))


def frame(*lines: Line) -> bytes:
    """Return lines as one zstd frame; frames one after the other are a recording."""
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(b"".join(map(_encoded, lines)))


def _encoded(line: Line) -> bytes:
    # The head states the limits that it was written under, whatever a later release has as its defaults.
    fields = line.model_dump(mode="json", exclude_none=True, exclude_defaults=not isinstance(line, Head))
    return json.dumps({"type": line.type, **fields}, separators=(",", ":")).encode() + b"\n"
