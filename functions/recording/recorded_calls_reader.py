"""Reading of a recording. It may come from a stranger (a bundle): every limit is checked before more is inflated."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

import zstandard
from pydantic import ValidationError

from ocf.events.archive_manifest import read_manifest
from ocf.events.errors import DeadLetter, InvalidEvent, NotYetKnown, Unreadable
from ocf.events.execution_ref import ExecutionRef
from ocf.events.lifecycle import Reason
from ocf.events.ports import ObjectStore
from ocf.events.untrusted_json import KIB, MIB, JsonLimit, parse_json
from ocf.functions.recording.line_types import (
    LINE,
    NAME,
    TYPES,
    VERSION,
    AnyLine,
    CallLine,
    End,
    Exchange,
    Gap,
    Head,
    Inputs,
    Part,
    Reply,
)

#: One line, an attempt's lines, and all of them. A writer stays well below (`lines.ATTEMPT_BYTES`).
_LINE = JsonLimit(bytes=24 * MIB, depth=16, values=200_000)
_ATTEMPT_BYTES, _ALL_BYTES = 96 * MIB, 512 * MIB
#: Of the compressed object.
FILE_BYTES = 128 * MIB
#: Parts of a request: as many as a request's JSON may have values.
_REQUEST_PARTS = 150_000
#: Of an attempt: parts, other lines, and parts that all its requests name. Each takes memory or processor time of the
#: gateway that checks a bundle.
_PARTS, _OTHERS, _NAMED_PARTS = 100_000, 50_000, 10_000_000
_WINDOW = 8 * MIB
_PIECE = 64 * KIB
_LINE_END = b"\n"


class InvalidRecording(DeadLetter):
    """The recording cannot be used."""

    reason = Reason.MODEL_ERROR


@dataclass(frozen=True)
class Recording:
    """The last attempt of a recording, whose calls led to the execution's end.

    `calls` are in the order in which they began.
    """

    head: Head
    inputs: Inputs
    parts: dict[int, Part]
    calls: tuple[CallLine, ...]
    gaps: tuple[Gap, ...]
    requests: int | None = None
    exchanges: tuple[Exchange, ...] = ()
    replies: tuple[Reply, ...] = ()

    @property
    def missing(self) -> list[int]:
        """Return the numbers of calls that are not recorded."""
        there = {call.number for call in self.calls}
        known = {number for gap in self.gaps for number in gap.calls} | set(range(1, max(there, default=0)))
        return sorted(known - there)

    def request_of(self, call: CallLine) -> list[Part]:
        """Return the parts of a call's request."""
        return [self.parts[number] for first, last in call.request for number in range(first, last + 1)]


def read(file: BinaryIO) -> Recording:
    """Read a recording.

    Raises:
        InvalidRecording: it is damaged, not a recording, of a later version, or exceeds a limit.
    """
    head: Head | None = None
    found = _Attempt()
    end: End | None = None
    for line in _lines(file):
        if isinstance(line, Head):
            if line.version != VERSION:
                raise InvalidRecording(f"{NAME}: version {line.version}; this release reads version {VERSION}")
            head, found = line, _Attempt()
        elif head is None:
            raise InvalidRecording(f"{NAME}: the first line must be of type attempt")
        elif isinstance(line, End):
            end = line
        else:
            found.add(line)
    if head is None:
        raise InvalidRecording(f"{NAME}: it is empty")
    calls = tuple(found.calls[number] for number in sorted(found.calls))
    requests = end.requests if end else None
    exchanges = tuple(sorted(found.exchanges, key=lambda one: one.number))
    return Recording(
        head, found.inputs, found.parts, calls, tuple(found.gaps), requests, exchanges, tuple(found.replies)
    )


class _Attempt:
    """Lines of one attempt."""

    def __init__(self) -> None:
        self.inputs = Inputs()
        self.parts: dict[int, Part] = {}
        self.calls: dict[int, CallLine] = {}
        self.gaps: list[Gap] = []
        self.exchanges: list[Exchange] = []
        self.replies: list[Reply] = []
        self._others = self._named = 0

    def add(self, line: AnyLine) -> None:
        self._others += not isinstance(line, Part)
        if len(self.parts) > _PARTS or self._others > _OTHERS:
            raise InvalidRecording(f"{NAME}: an attempt has more than {_PARTS} parts or {_OTHERS} other lines")
        match line:
            case Inputs():
                self.inputs = self.inputs.model_copy(update=line.model_dump(exclude_unset=True))
            case Part():
                if self.parts.setdefault(line.number, line).hash != line.hash:
                    raise InvalidRecording(f"{NAME}: part {line.number} is there twice, with different hashes")
            case CallLine():
                if line.number in self.calls:
                    raise InvalidRecording(f"{NAME}: call {line.number} is there twice")
                self._check(line)
                self.calls[line.number] = line
            case Gap():
                self.gaps.append(line)
            case Exchange():
                self.exchanges.append(line)
            case Reply():
                self.replies.append(line)

    def _check(self, call: CallLine) -> None:
        parts = sum(max(0, last - first + 1) for first, last in call.request)
        if parts > _REQUEST_PARTS:
            raise InvalidRecording(f"{NAME}: call {call.number} has more than {_REQUEST_PARTS} parts")
        self._named += parts
        if self._named > _NAMED_PARTS:
            raise InvalidRecording(f"{NAME}: the requests of an attempt have more than {_NAMED_PARTS} parts")
        for first, last in call.request:
            if last < first or any(number not in self.parts for number in range(first, last + 1)):
                raise InvalidRecording(f"{NAME}: call {call.number} names parts {first} to {last}, which are not there")


def _lines(file: BinaryIO) -> Iterator[AnyLine]:
    total = attempt = 0
    for data in _split(file):
        total, attempt = total + len(data), attempt + len(data)
        if total > _ALL_BYTES:
            raise InvalidRecording(f"{NAME}: more than {_ALL_BYTES} bytes, inflated")
        try:
            value = parse_json(data, _LINE, f"{NAME}: a line")
            if not isinstance(value, dict):
                raise InvalidRecording(f"{NAME}: a line is not a JSON object")
            if value.get("type") == "attempt":
                attempt = len(data)
            if attempt > _ATTEMPT_BYTES:
                raise InvalidRecording(f"{NAME}: an attempt has more than {_ATTEMPT_BYTES} bytes, inflated")
            if value.get("type") in TYPES:
                yield LINE.validate_python(value, extra="allow")
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise InvalidRecording(f"{NAME}: {where}: {first['msg']}") from None
        except InvalidEvent as error:
            raise InvalidRecording(str(error)) from None


def _split(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a compressed file; at most one line and one piece are in memory."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    rest = bytearray()
    try:
        with decompressor.stream_reader(file, read_across_frames=True, closefd=False) as stream:
            while piece := stream.read(_PIECE):
                start = len(rest)
                rest += piece
                if (end := rest.rfind(_LINE_END, start) + 1) > 0:
                    yield from bytes(rest[: end - 1]).split(_LINE_END)
                    del rest[:end]
                if len(rest) > _LINE.bytes:
                    raise InvalidRecording(f"{NAME}: a line has more than {_LINE.bytes} bytes")
    except zstandard.ZstdError as error:
        raise InvalidRecording(f"{NAME}: not valid zstd data: {error}") from None
    if rest:
        raise InvalidRecording(f"{NAME}: it ends in the middle of a line")


async def load(store: ObjectStore, ref: ExecutionRef) -> Recording:
    """Return the recording in an execution's archive.

    Raises:
        InvalidRecording: the archive has none, or one that cannot be used.
        Unavailable: the store does not answer.
    """
    wanted = await _digest(store, ref)
    if wanted is None:
        raise InvalidRecording(f"execution {ref.execution} has no recording: it ran with recording off, or was deleted")
    data, digest = bytearray(), hashlib.sha256()
    try:
        async for piece in store.stream(ref.object_key(NAME)):
            data += piece
            digest.update(piece)
            if len(data) > FILE_BYTES:
                raise InvalidRecording(f"{NAME}: more than {FILE_BYTES} bytes")
    except NotYetKnown:
        raise InvalidRecording(f"{NAME} of execution {ref.execution} is gone") from None
    if digest.hexdigest() != wanted:
        raise InvalidRecording(
            f"{NAME} of execution {ref.execution} is not as its manifest states: its SHA-256 differs"
        )
    return await asyncio.to_thread(read, BytesIO(data))


async def _digest(store: ObjectStore, ref: ExecutionRef) -> str | None:
    """Return the SHA-256 that the manifest states for the recording; None without one."""
    try:
        manifest = await read_manifest(store, ref)
        objects = [] if manifest is None else manifest["objects"]
        return next((one["sha256"] for one in objects if one["name"] == NAME), None)
    except (Unreadable, KeyError, TypeError):
        raise InvalidRecording(f"the manifest of execution {ref.execution} cannot be read") from None
