"""Publisher of one execution's output: drafts in, numbered chunks out within 20 ms, gapless over all attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from pydantic_core import to_json

from ocf.events import subjects
from ocf.events.command_payloads import MAX_CHUNK_BYTES, MAX_EVENT_BYTES
from ocf.events.envelope import Event
from ocf.events.errors import OcfError
from ocf.events.execution_ref import ExecutionRef
from ocf.events.output import ChunkType, Draft
from ocf.events.ports import Bus, Clock
from ocf.events.redaction import Redactor, StreamRedactor
from ocf.events.untrusted_json import shorten
from ocf.functions.core.fencing_token import FencedOutput

#: Seconds per chunk of joinable text, on average. Deltas that come faster are joined; none is held for longer.
COALESCE = 0.02
#: Chunks that may come early. What a model says evenly arrives unevenly, and no word of it is to wait.
EARLY_CHUNKS = 3
_SPLIT = MAX_CHUNK_BYTES - 2048
_LONG = 1000
#: Approximate bytes of a message's headers. Many small chunks take far more storage than their data, so the stored
#: bytes may be a multiple (`_STORED`) of the limit plus a fixed allowance in bytes.
_HEADERS = 512
_STORED, _STORED_FREE = 4, 4 * 1024 * 1024


class Ownership(Protocol):
    """The part of the lease that output needs."""

    @property
    def held(self) -> bool:
        """Return whether the lease counts as held."""

    async def wait_until_held(self) -> bool:
        """Wait while that is unknown, and return whether the lease is held."""

    def invalidate(self) -> None:
        """Treat the lease as expired until confirmed."""


class OutputLimit(OcfError):
    """The execution produced more output than `limits.max_output_bytes`."""


class Publisher:
    """Numbers and publishes chunks. One per attempt; nothing else writes to the output subject.

    Attributes:
        last: sequence of the newest chunk, 0 before the first.
        published_at: monotonic time of the newest chunk.
        bytes: counted against the limit: `data` and `detail` as they are stored.
    """

    def __init__(self, bus: Bus, clock: Clock, redactor: Redactor, *, project: str, execution: str) -> None:
        self._clock = clock
        self._redactor = redactor
        self._execution = execution
        self._identity = ExecutionRef(project, execution).message_id("chunk")
        # After a long outage another process may have ended the execution; no chunk may follow that end.
        self._writer = bus.writer(
            subjects.output(project, execution),
            may_repeat=lambda: self._ownership is None or self._ownership.held,
            on_fenced=self._fenced_off,
        )
        self._streams: dict[str, tuple[StreamRedactor, Draft]] = {}
        self._held: Draft | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._next_at = float("-inf")
        self._lock = asyncio.Lock()
        self._headers: dict[str, str] = {}
        self._attempt = 1
        self._limit = 0
        self._stored = 0
        self._flushed = False
        self._limit_error: OutputLimit | None = None
        self._on_limit: Callable[[OutputLimit], None] = lambda _: None
        self._ownership: Ownership | None = None
        self.last = 0
        self.bytes = 0
        self.published_at = clock.monotonic()
        self.first_at: float | None = None

    def begin(
        self,
        attempt: int,
        fenced: FencedOutput,
        *,
        max_bytes: int,
        ownership: Ownership,
        trace: Mapping[str, str] | None = None,
    ) -> None:
        """Continue after the output of earlier attempts. Output waits while `ownership` is uncertain.

        Args:
            attempt: number of this attempt.
            fenced: the acquired fence and the last sequence.
            max_bytes: limit of the output; 0: none.
            ownership: the lease.
            trace: W3C trace context for the chunks' headers.
        """
        self.last = fenced.last
        self.fence(fenced)
        self._attempt = attempt
        self._limit = max_bytes
        self._ownership = ownership
        event = Event(
            type="dev.ocf.task.output.v1",
            source="/ocf/execute",
            id="",
            time=datetime.now(UTC),
            data=b"",
            subject=self._execution,
            extensions={"correlationid": self._execution, "partitionkey": self._execution, **(trace or {})},
        )
        self._headers = event.headers()

    def on_limit(self, listener: Callable[[OutputLimit], None]) -> None:
        """Register a listener, called once when the limit is exceeded, also when a delayed flush exceeds it."""
        self._on_limit = listener

    def fence(self, fenced: FencedOutput) -> None:
        """Publish from now on, and re-publish unacknowledged chunks, only while `fenced` is the latest fence."""
        self._writer.fence(fenced.fence)

    def _fenced_off(self) -> None:
        if self._ownership is not None:
            self._ownership.invalidate()

    async def emit(self, draft: Draft) -> None:
        """Publish a draft, or hold it briefly to join it with the next ones.

        Raises:
            OutputLimit: this draft, or one held before it, exceeded the limit. Earlier output stands, a gap chunk
                states the cut, and only `status` chunks follow.
        """
        remainders = [
            remainder for key in list(self._streams) if _ends(draft, key) and (remainder := self._remainder(key))
        ]
        clean = self._redact(draft)
        async with self._lock:
            for remainder in remainders:
                await self._add(remainder)
            if clean is not None:
                await self._add(clean)
        # A status describes the run; its caller may be unable to end the run.
        if self._limit_error is not None and not self._flushed and draft.type is not ChunkType.STATUS:
            raise self._limit_error

    async def _add(self, clean: Draft) -> None:
        if self._held is not None and not _joins(self._held, clean):
            await self._flush_held()
        if clean.merge_key is None:
            await self._publish(clean)
            return
        if self._held is None:
            self._held = clean
            loop, earliest = asyncio.get_running_loop(), self._next_at - EARLY_CHUNKS * COALESCE
            if loop.time() >= earliest:
                await self._flush_held()
                return
            self._timer = loop.call_at(earliest, self._due)
        else:
            self._held = self._held.model_copy(update={"data": self._held.data + clean.data})
        if len(self._held.data) >= _SPLIT:
            await self._flush_held()

    def _redact(self, draft: Draft) -> Draft | None:
        """Redact secrets. Joinable text may split one across drafts, so it goes through a stream redactor."""
        draft = without_lone_surrogates(draft)
        detail = self._redactor.value(draft.detail) if draft.detail else draft.detail
        if draft.merge_key is None:
            data = self._redactor(draft.data)
            same = data is draft.data and detail is draft.detail  # copying costs as much as the search
            return draft if same else draft.model_copy(update={"data": data, "detail": detail})
        if draft.merge_key not in self._streams:
            empty = draft.model_copy(update={"data": "", "detail": detail})
            self._streams[draft.merge_key] = (self._redactor.stream(), empty)
        data = self._streams[draft.merge_key][0].feed(draft.data)
        return draft.model_copy(update={"data": data, "detail": detail}) if data else None

    def _remainder(self, key: str) -> Draft | None:
        """Return the text that an ended stream still holds because it could have started a secret."""
        stream, like = self._streams.pop(key)
        remainder = stream.flush()
        return like.model_copy(update={"data": remainder}) if remainder else None

    def _due(self) -> None:
        self._flushing = asyncio.ensure_future(self._flush_due())

    async def _flush_due(self) -> None:
        async with self._lock:
            await self._flush_held()

    async def _flush_held(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._held is not None:
            held, self._held = self._held, None
            now = asyncio.get_running_loop().time()
            # At most as far ahead as makes the next delta wait for COALESCE.
            self._next_at = min(max(now, self._next_at) + COALESCE, now + (EARLY_CHUNKS + 1) * COALESCE)
            await self._publish(held)

    async def _publish(self, draft: Draft) -> None:
        length = len(draft.data.encode())
        size = length + _detail_bytes(draft)
        if self._limit and not self._flushed and draft.type is not ChunkType.STATUS:
            if self._limit_error is not None:
                return
            if self.bytes + size > self._limit or self._stored > _STORED * self._limit + _STORED_FREE:
                self._limit_error = OutputLimit(f"more than {self._limit} bytes of output")
                self._on_limit(self._limit_error)
                await self._send(_cut(draft, size))
                return
        self.bytes += size
        if length <= _SPLIT:
            await self._send(draft)
            return
        for piece in _pieces(draft.data):
            await self._send(draft.model_copy(update={"data": piece}))

    async def _send(self, draft: Draft) -> None:
        if self._ownership is None or not (self._ownership.held or await self._ownership.wait_until_held()):
            return  # another worker owns the execution; chunks from here would conflict with its output
        now = self._clock.now()
        self.last += 1
        self.published_at = self._clock.monotonic()
        if self.first_at is None and draft.type is not ChunkType.STATUS:
            self.first_at = self.published_at
        stamp = now.isoformat(timespec="microseconds").replace("+00:00", "Z")
        chunk: dict[str, Any] = {"seq": self.last, "type": draft.type, "data": draft.data, "timestamp": stamp}
        chunk["attempt"] = self._attempt
        if draft.detail:
            chunk["detail"] = draft.detail
        identity = f"{self._identity}:{self.last}"
        headers = {
            **self._headers,
            "ce-id": identity,
            "ce-time": stamp,
            "ce-sequence": str(self.last),
            "Nats-Msg-Id": identity,
        }
        data = to_json(chunk)  # takes a tenth of the time of json.dumps
        if len(data) > MAX_EVENT_BYTES:  # only a tool's input can be that large, and the workspace has it anyway
            chunk["detail"] = _shortened(draft.detail)
            data = to_json(chunk)
        if len(data) > MAX_EVENT_BYTES:  # many short texts, or long names
            chunk["detail"] = _short_fields(draft.detail)
            data = to_json(chunk)
        self._stored += len(data) + _HEADERS
        await self._writer.send(data, headers)

    async def flush_pending(self) -> None:
        """Publish all held text: the agent is done. Later chunks are about the end and have no limit."""
        remainders = [remainder for key in list(self._streams) if (remainder := self._remainder(key))]
        async with self._lock:
            for remainder in remainders:
                await self._add(remainder)
            await self._flush_held()
        self._flushed = True

    async def finish(self, timeout: float) -> None:
        """Publish all held text and wait until every chunk is stored.

        Raises:
            Unavailable: NATS did not store the chunks within `timeout` seconds.
        """
        await self.flush_pending()
        await self._writer.flush(timeout)

    def close(self) -> None:
        """Stop publishing; chunks not stored yet are dropped."""
        if self._timer is not None:
            self._timer.cancel()
        self._writer.close()


def without_lone_surrogates(draft: Draft) -> Draft:
    """Return `draft` without lone surrogates, which JavaScript can produce and UTF-8 cannot encode."""
    data, detail = replace_lone_surrogates(draft.data), replace_lone_surrogates(draft.detail)
    same = data is draft.data and detail is draft.detail  # copying costs as much as the search
    return draft if same else draft.model_copy(update={"data": data, "detail": detail})


def replace_lone_surrogates(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return `value` with U+FFFD for each lone surrogate; `value` itself when there is none."""
    if isinstance(value, str):
        return value if _utf8(value) else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    made: Any = value
    if isinstance(value, dict):
        made = {replace_lone_surrogates(key): replace_lone_surrogates(item) for key, item in value.items()}
    elif isinstance(value, list):
        made = [replace_lone_surrogates(item) for item in value]
    return value if made == value else made


def _utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shortened(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return `value` with long texts cut and their lengths stated."""
    if isinstance(value, str) and len(value) > _LONG:
        return f"{value[:_LONG]}… ({len(value)} characters)"
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in list(value.items())[:200]}
    if isinstance(value, list):
        return [_shortened(item) for item in value[:200]]
    return value


def _short_fields(detail: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return short texts, numbers and flags of `detail` with short names, and the mark `omitted`."""
    few = list((detail or {}).items())[:50]
    short = {key: item for key, item in few if len(key) <= 100 and not isinstance(item, dict | list)}
    fields = {key: shorten(item, _LONG) if isinstance(item, str) else item for key, item in short.items()}
    return {**fields, "omitted": True}


def _detail_bytes(draft: Draft) -> int:
    """Return the stored bytes of `detail`; 0 for a status, whose detail is the worker's own."""
    if not draft.detail or draft.type is ChunkType.STATUS:
        return 0
    return len(to_json(draft.detail))


def _ends(draft: Draft, key: str) -> bool:
    """Return whether `draft` ends the stream `key`: a tool's result, or the model's next text or tool call.

    A stream that is only interrupted keeps its redaction state.
    """
    if key.startswith("stdout:"):
        return draft.type is ChunkType.TOOL_RESULT and key == f"stdout:{(draft.detail or {}).get('call_id')}"
    return draft.merge_key != key and draft.type in (ChunkType.TEXT, ChunkType.REASONING, ChunkType.TOOL_CALL)


def _joins(held: Draft, further: Draft) -> bool:
    return held.merge_key is not None and held.merge_key == further.merge_key and held.type == further.type


def _cut(draft: Draft, size: int) -> Draft:
    text = "output limit reached; the rest was dropped"
    return Draft(type=ChunkType.GAP, data=text, detail={"reason": "output_limit", "type": draft.type, "bytes": size})


def _pieces(text: str) -> list[str]:
    """Split `text` into pieces of at most 64 KiB of UTF-8, never inside a character."""
    raw = text.encode("utf-8", "replace")
    pieces, start = [], 0
    while start < len(raw):
        end = min(len(raw), start + _SPLIT)
        while end < len(raw) and raw[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(raw[start:end].decode("utf-8", "replace"))
        start = end
    return pieces
