"""Output of one execution: drafts in, numbered chunks out, within 50 ms, gapless over all attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from pydantic_core import to_json

from ocf.events import subjects
from ocf.events.commands import MAX_CHUNK_BYTES, MAX_EVENT_BYTES
from ocf.events.envelope import Event
from ocf.events.errors import OcfError
from ocf.events.limits import shorten
from ocf.events.output import ChunkType, Draft
from ocf.events.ports import Bus, Clock
from ocf.events.redaction import Redactor, StreamRedactor
from ocf.events.refs import ExecutionRef
from ocf.functions.core.output_fence import FencedOutput

#: Fast deltas are joined for at most this long; the promise is 50 ms, the rest is for the way.
COALESCE = 0.02
_SPLIT = MAX_CHUNK_BYTES - 2048
_LONG = 1000
#: A message's headers, about, in bytes. Many small chunks take far more than they say: an execution may store so many
#: times its limit, and so many bytes besides.
_HEADERS = 512
_STORED, _STORED_FREE = 4, 4 * 1024 * 1024


class Ownership(Protocol):
    """The lease, as far as output needs it."""

    @property
    def held(self) -> bool: ...

    async def sure(self) -> bool: ...

    def doubt(self) -> None: ...


class OutputLimit(OcfError):
    """The execution said more than `limits.max_output_bytes`."""


class Publisher:
    """Numbers and publishes. One per attempt; nothing else writes to the output subject.

    `last` is the sequence of the newest chunk, 0 before the first. `said_at` is the clock's monotonic time of it.
    `bytes` is what counts against the limit: `data` and `detail`, as they are stored.
    """

    def __init__(self, bus: Bus, clock: Clock, redactor: Redactor, *, project: str, execution: str) -> None:
        self._clock = clock
        self._redactor = redactor
        self._execution = execution
        self._identity = ExecutionRef(project, execution).message_id("chunk")
        # After a long outage somebody else may have ended the execution: a chunk must not come after that.
        self._writer = bus.writer(
            subjects.output(project, execution),
            may_repeat=lambda: self._hold is None or self._hold.held,
            on_fenced=self._fenced_off,
        )
        self._streams: dict[str, tuple[StreamRedactor, Draft]] = {}
        self._held: Draft | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lock = asyncio.Lock()
        self._headers: dict[str, str] = {}
        self._attempt = 1
        self._limit = 0
        self._stored = 0
        self._settled = False
        self._over: OutputLimit | None = None
        self._on_limit: Callable[[OutputLimit], None] = lambda _: None
        self._hold: Ownership | None = None
        self.last = 0
        self.bytes = 0
        self.said_at = clock.monotonic()
        self.first_at: float | None = None

    def begin(
        self,
        attempt: int,
        fenced: FencedOutput,
        *,
        max_bytes: int,
        hold: Ownership,
        trace: Mapping[str, str] | None = None,
    ) -> None:
        """Continue after whatever an earlier attempt said. While `hold` is in doubt, output waits."""
        self.last = fenced.last
        self.fence(fenced)
        self._attempt = attempt
        self._limit = max_bytes
        self._hold = hold
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
        """Called once when it was too much: what is held back a moment is found too long when nobody emits."""
        self._on_limit = listener

    def fence(self, fenced: FencedOutput) -> None:
        """What is not kept yet, and all that follows, is kept only while nobody fences the output off again."""
        self._writer.fence(fenced.fence)

    def _fenced_off(self) -> None:
        if self._hold is not None:
            self._hold.doubt()

    async def emit(self, draft: Draft) -> None:
        """Say it, or hold it a moment to join it with what follows.

        Raises:
            OutputLimit: it was too much, this or what was held back before it. What was said until then stands, the cut
                is said, and nothing but `status` comes after it.
        """
        rests = [rest for key in list(self._streams) if _ends(draft, key) and (rest := self._rest(key))]
        clean = self._clean(draft)
        async with self._lock:
            for rest in rests:
                await self._take(rest)
            if clean is not None:
                await self._take(clean)
        # A status is about the run, and who says it may be nobody who could end it.
        if self._over is not None and not self._settled and draft.type is not ChunkType.STATUS:
            raise self._over

    async def _take(self, clean: Draft) -> None:
        if self._held is not None and not _joins(self._held, clean):
            await self._say_held()
        if clean.merge_key is None:
            await self._say(clean)
            return
        if self._held is None:
            self._held = clean
            self._timer = asyncio.get_running_loop().call_later(COALESCE, self._due)
        else:
            self._held = self._held.model_copy(update={"data": self._held.data + clean.data})
        if len(self._held.data) >= _SPLIT:
            await self._say_held()

    def _clean(self, draft: Draft) -> Draft | None:
        """Without secrets. Joinable text may hide one across its borders, so it goes through a stream."""
        draft = sayable(draft)
        detail = self._redactor.value(draft.detail) if draft.detail else draft.detail
        if draft.merge_key is None:
            data = self._redactor(draft.data)
            same = data is draft.data and detail is draft.detail  # a copy costs as much as the search
            return draft if same else draft.model_copy(update={"data": data, "detail": detail})
        if draft.merge_key not in self._streams:
            empty = draft.model_copy(update={"data": "", "detail": detail})
            self._streams[draft.merge_key] = (self._redactor.stream(), empty)
        data = self._streams[draft.merge_key][0].feed(draft.data)
        return draft.model_copy(update={"data": data, "detail": detail}) if data else None

    def _rest(self, key: str) -> Draft | None:
        """What a stream that has ended still holds: the last letters could have been the beginning of a secret."""
        stream, like = self._streams.pop(key)
        rest = stream.flush()
        return like.model_copy(update={"data": rest}) if rest else None

    def _due(self) -> None:
        self._flushing = asyncio.ensure_future(self._say_due())

    async def _say_due(self) -> None:
        async with self._lock:
            await self._say_held()

    async def _say_held(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._held is not None:
            held, self._held = self._held, None
            await self._say(held)

    async def _say(self, draft: Draft) -> None:
        length = len(draft.data.encode())
        size = length + _detail_bytes(draft)
        if self._limit and not self._settled and draft.type is not ChunkType.STATUS:
            if self._over is not None:
                return
            if self.bytes + size > self._limit or self._stored > _STORED * self._limit + _STORED_FREE:
                self._over = OutputLimit(f"more than {self._limit} bytes of output")
                self._on_limit(self._over)
                await self._send(_cut(draft, size))
                return
        self.bytes += size
        if length <= _SPLIT:
            await self._send(draft)
            return
        for piece in _pieces(draft.data):
            await self._send(draft.model_copy(update={"data": piece}))

    async def _send(self, draft: Draft) -> None:
        if self._hold is None or not (self._hold.held or await self._hold.sure()):
            return  # another worker owns it now: a chunk of ours would be a lie
        now = self._clock.now()
        self.last += 1
        self.said_at = self._clock.monotonic()
        if self.first_at is None and draft.type is not ChunkType.STATUS:
            self.first_at = self.said_at
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
        data = to_json(chunk)  # a tenth of json.dumps
        if len(data) > MAX_EVENT_BYTES:  # only a tool's input can be that large, and it is in the workspace anyway
            chunk["detail"] = _shortened(draft.detail)
            data = to_json(chunk)
        if len(data) > MAX_EVENT_BYTES:  # many texts that are not long, or names that are
            chunk["detail"] = _named(draft.detail)
            data = to_json(chunk)
        self._stored += len(data) + _HEADERS
        await self._writer.send(data, headers)

    async def settle(self) -> None:
        """Say what is held back: the agent says no more. What follows is about the end, and no limit counts for it."""
        rests = [rest for key in list(self._streams) if (rest := self._rest(key))]
        async with self._lock:
            for rest in rests:
                await self._take(rest)
            await self._say_held()
        self._settled = True

    async def finish(self, timeout: float) -> None:
        """Say what is held back, and wait until all of it is kept.

        Raises:
            Unavailable: NATS did not keep it within `timeout` seconds.
        """
        await self.settle()
        await self._writer.flush(timeout)

    def close(self) -> None:
        """Stop for good; what is not kept yet is forgotten."""
        if self._timer is not None:
            self._timer.cancel()
        self._writer.close()


def sayable(draft: Draft) -> Draft:
    """`draft` without half surrogate pairs: JavaScript cuts texts between them, UTF-8 cannot say one."""
    data, detail = whole(draft.data), whole(draft.detail)
    same = data is draft.data and detail is draft.detail  # a copy costs as much as the search
    return draft if same else draft.model_copy(update={"data": data, "detail": detail})


def whole(value: Any) -> Any:  # noqa: ANN401 - JSON
    """`value` itself; with a replacement character for each half surrogate pair in it when there is one."""
    if isinstance(value, str):
        return value if _utf8(value) else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    made: Any = value
    if isinstance(value, dict):
        made = {whole(key): whole(item) for key, item in value.items()}
    elif isinstance(value, list):
        made = [whole(item) for item in value]
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
    """`value` with every long text in it cut, and saying so."""
    if isinstance(value, str) and len(value) > _LONG:
        return f"{value[:_LONG]}… ({len(value)} characters)"
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in list(value.items())[:200]}
    if isinstance(value, list):
        return [_shortened(item) for item in value[:200]]
    return value


def _named(detail: Mapping[str, Any] | None) -> dict[str, Any]:
    """Of `detail` only short texts, numbers and flags under short names, and that the rest is left out."""
    few = list((detail or {}).items())[:50]
    short = {key: item for key, item in few if len(key) <= 100 and not isinstance(item, dict | list)}
    kept = {key: shorten(item, _LONG) if isinstance(item, str) else item for key, item in short.items()}
    return {**kept, "omitted": True}


def _detail_bytes(draft: Draft) -> int:
    """Bytes of `detail` as it is stored. That of a status is the worker's own."""
    if not draft.detail or draft.type is ChunkType.STATUS:
        return 0
    return len(to_json(draft.detail))


def _ends(draft: Draft, key: str) -> bool:
    """Whether the stream of `key` has ended when `draft` comes: a tool's with its result, the model's with what it
    says or does next. A stream that is only interrupted goes on hiding what is cut in two."""
    if key.startswith("stdout:"):
        return draft.type is ChunkType.TOOL_RESULT and key == f"stdout:{(draft.detail or {}).get('call_id')}"
    return draft.merge_key != key and draft.type in (ChunkType.TEXT, ChunkType.REASONING, ChunkType.TOOL_CALL)


def _joins(held: Draft, further: Draft) -> bool:
    return held.merge_key is not None and held.merge_key == further.merge_key and held.type == further.type


def _cut(draft: Draft, size: int) -> Draft:
    said = "output limit reached; the rest was not kept"
    return Draft(type=ChunkType.GAP, data=said, detail={"reason": "output_limit", "type": draft.type, "bytes": size})


def _pieces(text: str) -> list[str]:
    """`text` in pieces of at most 64 KiB of UTF-8, never inside a character."""
    raw = text.encode("utf-8", "replace")
    pieces, start = [], 0
    while start < len(raw):
        end = min(len(raw), start + _SPLIT)
        while end < len(raw) and raw[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(raw[start:end].decode("utf-8", "replace"))
        start = end
    return pieces
