"""Downloads of an execution: output, patch, changed files, events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from ocf.events import envelope, subjects
from ocf.events.archive_manifest import EVENTS
from ocf.events.errors import InvalidEvent
from ocf.events.output import ChunkType
from ocf.events.ports import Message
from ocf.events.reorder import Line
from ocf.events.terminal_facts import CHANGES_NAME
from ocf.functions.gateway import response_schemas
from ocf.functions.gateway.context import Execution, ExecutionHandle, Gateway, Gw
from ocf.functions.gateway.output_reader import OUTPUT_NAME, lines
from ocf.functions.gateway.problems import Problem
from ocf.functions.gateway.request_body import StrictRoute

router = APIRouter(tags=["downloads"], route_class=StrictRoute)

NDJSON = "application/x-ndjson"
Format = Literal["ndjson", "json", "text"]
_MEDIA = {"ndjson": NDJSON, "json": "application/json", "text": "text/plain; charset=utf-8"}
_SUFFIX = {"ndjson": "ndjson", "json": "json", "text": "txt"}
#: Chunk types shown in plain text; the rest is bookkeeping.
_READABLE = frozenset(
    {
        ChunkType.TEXT,
        ChunkType.STDOUT,
        ChunkType.STDERR,
        ChunkType.TOOL_CALL,
        ChunkType.TOOL_RESULT,
        ChunkType.STATUS,
        ChunkType.PERMISSION,
        ChunkType.QUESTION,
        ChunkType.GAP,
    }
)
#: Deltas of one text follow each other directly; everything else starts on a new line.
_RUNNING = frozenset({ChunkType.TEXT, ChunkType.STDOUT, ChunkType.STDERR})
_PIECE = 64 * 1024

Download = Annotated[bool, Query(description="as an attachment with a file name")]


def _headers(found: ExecutionHandle, name: str, download: bool) -> dict[str, str]:
    headers = {"Cache-Control": "no-store"}
    if download:
        headers["Content-Disposition"] = f'attachment; filename="{found.execution}.{name}"'
    return headers


_CHUNKS = {"type": "array", "items": {"$ref": "#/components/schemas/Chunk"}}
_STREAM_DOC = {NDJSON: {"schema": {"type": "string"}}, "text/plain": {"schema": {"type": "string"}}}


@router.get(
    "/tasks/{execution_id}/output",
    response_class=StreamingResponse,
    responses={200: {"content": {**_STREAM_DOC, "application/json": {"schema": _CHUNKS}}}},
)
async def output(
    gateway: Gw,
    found: Execution,
    format: Annotated[Format, Query(description="one Chunk per line, an array of them, or readable text")] = "ndjson",
    from_: Annotated[int, Query(alias="from", ge=1, description="first sequence")] = 1,
    to: Annotated[int | None, Query(ge=1, description="last sequence")] = None,
    types: Annotated[list[ChunkType] | None, Query(max_length=len(ChunkType), description="only these")] = None,
    download: Download = False,
    accept_encoding: Annotated[str, Header(include_in_schema=False)] = "",
) -> Response:
    """Return the output so far, from the stream while it is there, else from the archive. Gaps are `gap` chunks."""
    headers = _headers(found, _SUFFIX[format], download)
    wanted = _wanted(lines(gateway, found, from_, to), frozenset(types or ()))
    if format == "ndjson" and from_ == 1 and to is None and not types and "gzip" in accept_encoding:
        packed = await _packed(gateway, found)
        if packed is not None:
            return StreamingResponse(
                packed, 200, {**headers, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}, NDJSON
            )
    body = {"ndjson": _ndjson, "json": _array, "text": _text}[format](wanted)
    return StreamingResponse(await start_stream(_batched(body)), 200, headers, _MEDIA[format])


async def _packed(gateway: Gateway, found: ExecutionHandle) -> AsyncIterator[bytes] | None:
    """Return the archived object unchanged, when the stream no longer has the execution's output."""
    if found.record is None or not found.record.archived:
        return None
    store, key = gateway.deps.store, f"{found.prefix}/{OUTPUT_NAME}"
    if await gateway.deps.bus.last(subjects.OUTPUT, subjects.output(found.project, found.execution)) is not None:
        return None
    return store.stream(key) if await store.head(key) is not None else None


async def _wanted(source: AsyncIterator[Line], types: frozenset[ChunkType]) -> AsyncIterator[bytes]:
    async for line in source:
        if not types or json.loads(line.data)["type"] in types:
            yield line.data


async def _ndjson(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for data in source:
        yield data + b"\n"


async def _array(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    separator = b"["
    async for data in source:
        yield separator + data
        separator = b","
    yield b"]" if separator == b"," else b"[]"


async def _text(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    before: tuple[str, bool] = ("", True)  # type of the last chunk, and whether it ended its line
    async for data in source:
        chunk = json.loads(data)
        kind, text = chunk["type"], chunk["data"]
        if kind not in _READABLE or not text:
            continue
        if not before[1] and not (kind == before[0] and kind in _RUNNING):
            text = "\n" + text
        before = (kind, text.endswith("\n"))
        yield text.encode("utf-8", "replace")
    if not before[1]:
        yield b"\n"


async def _batched(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Join pieces into fewer, larger ones: each costs a pass through the server."""
    parts: list[bytes] = []
    size = 0
    async for part in source:
        parts.append(part)
        size += len(part)
        if size >= _PIECE:
            yield b"".join(parts)
            parts, size = [], 0
            await asyncio.sleep(0)  # writing to a fast reader does not yield: serve others in between
    if parts:
        yield b"".join(parts)


async def start_stream(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Return `source` with its first piece already read, so that an early failure can be answered with a problem."""
    first = await anext(source, b"")

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for piece in source:
            yield piece

    return whole()


@router.get(
    "/tasks/{execution_id}/diff",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/x-patch": {"schema": {"type": "string"}}}}},
)
async def diff(gateway: Gw, found: Execution, download: Download = False) -> Response:
    """Return the run's changes as a patch for `git apply`. Empty without changes; 409 while it runs."""
    key = f"{found.prefix}/workspace.patch"
    headers = _headers(found, "patch", download)
    if await gateway.deps.store.head(key) is not None:
        return StreamingResponse(await start_stream(gateway.deps.store.stream(key)), 200, headers, "text/x-patch")
    record = found.record
    if record is None or not record.terminal:
        raise Problem(
            409,
            "still-running",
            "the patch is written when the run ends; GET files lists the changes so far",
            headers={"Retry-After": "2"},
        )
    if record.diff.files:
        why = record.artifacts_message if record.artifacts == "lost" else None
        raise Problem(404, "no-patch", why or "this execution has no patch (never stored, or expired)")
    return Response(b"", 200, headers, "text/x-patch")


@router.get("/tasks/{execution_id}/files", response_model=response_schemas.Files)
async def files(gateway: Gw, found: Execution) -> response_schemas.Files | Response:
    """Return the files changed by the run (so far): all of them once it has ended, else those in the record."""
    record = found.known(1)
    answer = response_schemas.Files(
        execution_id=found.execution,
        final=record.terminal,
        files=record.diff.changed,
        additions=record.diff.additions,
        deletions=record.diff.deletions,
        truncated=record.diff.truncated,
    )
    key = f"{found.prefix}/{CHANGES_NAME}"
    if not record.terminal or not record.diff.truncated or await gateway.deps.store.head(key) is None:
        return answer
    # The list may be long, so it is streamed as stored.
    head = answer.model_copy(update={"files": [], "truncated": False}).model_dump_json(exclude={"files"})
    stored = gateway.deps.store.stream(key)
    return StreamingResponse(await start_stream(_with_files(head, stored)), media_type="application/json")


async def _with_files(head: str, files: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the JSON object `head` with `files`, the pieces of a JSON array, as its last member."""
    yield head[:-1].encode() + b',"files":'
    async for piece in files:
        yield piece
    yield b"}"


@router.get(
    "/tasks/{execution_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {NDJSON: {"schema": {"type": "string"}}}}},
)
async def events(gateway: Gw, found: Execution, download: Download = False) -> Response:
    """Return every command and fact of the execution, one structured CloudEvent per line, oldest first."""
    headers = _headers(found, EVENTS, download)
    key = f"{found.prefix}/{EVENTS}"
    submit = subjects.command("submit", found.project, found.execution)
    # Streams expire the oldest messages first: without the submit only the archive is complete.
    whole = await gateway.deps.bus.last(subjects.COMMANDS, submit) is not None
    if not whole and await gateway.deps.store.head(key) is not None:
        return StreamingResponse(await start_stream(gateway.deps.store.stream(key)), 200, headers, NDJSON)
    body = _batched(_structured(_messages_of(gateway, found)))
    return StreamingResponse(await start_stream(body), 200, headers, NDJSON)


async def _messages_of(gateway: Gateway, found: ExecutionHandle) -> AsyncIterator[Message]:
    """Yield commands and facts in the order of their time. Each stream has its own in this order already."""
    bus, project, execution = gateway.deps.bus, found.project, found.execution
    sources = [
        bus.history(subjects.COMMANDS, f"ocf.cmd.*.{project}.{execution}"),
        bus.history(subjects.EVENTS, f"ocf.evt.{project}.{execution}.*"),
    ]
    heads = [await anext(source, None) for source in sources]
    while waiting := [(one.time is None, one.time, at) for at, one in enumerate(heads) if one is not None]:
        first = min(waiting)[-1]
        message, heads[first] = heads[first], await anext(sources[first], None)
        if message is not None:
            yield message


async def _structured(messages: AsyncIterator[Message]) -> AsyncIterator[bytes]:
    async for message in messages:
        try:
            yield envelope.decode(message.headers, message.data).line() + b"\n"
        except (InvalidEvent, ValueError):
            # Backends may publish invalid commands: these are shown unparsed, as in the archive.
            raw = {"subject": message.subject, "raw": message.data.decode("utf-8", "replace")}
            yield json.dumps(raw, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
