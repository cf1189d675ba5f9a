"""Writing of a recording: one object per call, in the background.

Nothing here makes the agent wait or fails a run: what S3 does not take in time is left out, and the recording says so.
"""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from ocf.events.errors import OcfError
from ocf.events.execution_ref import ExecutionRef
from ocf.events.ports import Clock, ObjectStore
from ocf.events.untrusted_json import MIB
from ocf.functions.core.asyncio_tasks import cancel_and_wait
from ocf.functions.recording.canonical import PartTable, ranges
from ocf.functions.recording.line_types import (
    ANSWER_BYTES,
    ATTEMPT_BYTES,
    PARTS,
    CallLine,
    Exchange,
    Gap,
    Head,
    Inputs,
    Line,
    Part,
    Reply,
    frame,
)

log = structlog.get_logger()

#: Bytes of answers in memory: of running calls, and of ended ones that S3 has not taken yet.
_HELD_BYTES = 16 * MIB
#: Ended calls that S3 has not taken yet.
_HELD_CALLS = 1_000
_MAX_PAUSE = 10.0
_TYPE = "application/zstd"


@dataclass(eq=False)
class Tape:
    """The answer of one call, while it passes. `full`: it was too long, so it is not held."""

    parts: list[Part]
    recorder: Recorder
    began: float
    answer: bytearray = field(default_factory=bytearray)
    times: list[tuple[int, int]] = field(default_factory=list)
    full: bool = False
    redacted: bool = False
    status: int | None = None
    content_type: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()

    def head(self, status: int, content_type: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Note what the agent gets."""
        self.status, self.content_type, self.headers = status, content_type, headers

    def note(self, data: bytes) -> None:
        """Note a piece as the agent gets it."""
        if self.full or not data:
            return
        if len(self.answer) + len(data) > ANSWER_BYTES or not self.recorder.hold(len(data)):
            self.full = True
            self.recorder.release(len(self.answer))
            self.answer.clear()
            return
        self.answer += data
        ms = self.recorder.ms_since(self.began)
        if self.times and ms - self.times[-1][0] < self._stride():
            self.times[-1] = (self.times[-1][0], len(self.answer))
        else:
            self.times.append((ms, len(self.answer)))

    def _stride(self) -> int:
        # Milliseconds between two times: the longer an answer, the fewer of them.
        return 5 * (1 + len(self.times) // 200)


@dataclass(frozen=True)
class _Entry:
    line: CallLine | Exchange | Reply
    parts: list[Part]
    size: int = 0


class Recorder:
    """Records the calls of one attempt. `table` has the parts of its requests."""

    def __init__(self, store: ObjectStore, ref: ExecutionRef, head: Head, table: PartTable, clock: Clock) -> None:
        self._store = store
        self._prefix = ref.object_key(f"{PARTS}{head.attempt:04d}-")
        self._clock = clock
        self._full = head.holds == "full"
        self._began = clock.monotonic()
        self._waiting: deque[_Entry] = deque()
        self._first: list[Line] = [head]
        self._stored: set[int] = set()
        self._left_out: dict[str, list[int]] = {}
        self._objects = 0
        self._held = 0
        self._written = 0
        self._begun = 0
        self._writer: asyncio.Task[None] | None = None
        self.table = table

    def ms_since(self, began: float) -> int:
        """Return the milliseconds since `began` of the monotonic clock."""
        return max(0, round((self._clock.monotonic() - began) * 1000))

    @property
    def held(self) -> int:
        """Return the bytes of answers in memory."""
        return self._held

    def hold(self, size: int) -> bool:
        """Take `size` bytes of the room in memory; return whether there was room."""
        if self._held + size > _HELD_BYTES:
            return False
        self._held += size
        return True

    def release(self, size: int) -> None:
        """Give room back."""
        self._held -= size

    def note_inputs(self, inputs: Inputs) -> None:
        """Record what the attempt began from, with the next call."""
        self._first.append(inputs)

    def tape(self, parts: list[Part] | None) -> Tape:
        """Begin a call with these parts of its request; None: there were too many, and it is not recorded."""
        self._begun += 1
        return self._tape(parts)

    def exchange_tape(self) -> Tape:
        """Begin an exchange with a remote MCP server or a secret's URL."""
        return self._tape([])

    def _tape(self, parts: list[Part] | None) -> Tape:
        return Tape(parts or [], self, self._clock.monotonic(), full=parts is None)

    def end(self, tape: Tape, call: CallLine) -> None:
        """Record a call that has ended; it is stored in the background."""
        new = sum(len(part.text or "") for part in tape.parts if self._full and part.number not in self._stored)
        if (full := self._no_room(tape, new)) is not None:
            self._leave_out(call.number, full)
            return
        line = call.model_copy(
            update={
                "request": ranges([part.number for part in tape.parts]),
                "status": tape.status,
                "content_type": tape.content_type,
                "answer": tape.answer.decode("utf-8", "replace"),
                "times": tape.times,
                "redacted": tape.redacted,
                "started_ms": max(0, round((tape.began - self._began) * 1000)),
                "ms": self.ms_since(tape.began),
            }
        )
        self._keep(_Entry(line, tape.parts, len(tape.answer)))

    def end_exchange(self, tape: Tape, exchange: Exchange) -> None:
        """Record an exchange that has ended. One that does not fit is not there: a rerun says that it is missing."""
        if (full := self._no_room(tape, len(exchange.target))) is not None:
            log.warning("exchange not recorded", action="recording.exchange", route=exchange.route, reason=full)
            return
        answer, plain = self.table.redacted(bytes(tape.answer)), True
        try:
            text = answer.decode()
        except UnicodeDecodeError:
            text, plain = base64.b64encode(answer).decode(), False
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in tape.headers]
        about = {
            "status": tape.status,
            "content_type": tape.content_type,
            "headers": headers[:100],
            "answer": text,
            "base64": not plain,
            "redacted": tape.redacted,
            "started_ms": max(0, round((tape.began - self._began) * 1000)),
            "ms": self.ms_since(tape.began),
        }
        self._keep(_Entry(exchange.model_copy(update=about), [], len(tape.answer)))

    def note_reply(self, request: int, asked: str, answer: str | None) -> None:
        """Record an answer that somebody gave the agent; see `lines.Reply`."""
        self._written += 512 + len(answer or "")
        if self._written > ATTEMPT_BYTES or len(self._waiting) >= _HELD_CALLS:
            log.warning("reply not recorded", action="recording.reply")
            return
        digest = self.table.digest("request", asked.encode("utf-8", "replace")) if request else ""
        said = None if answer is None else self.table.redacted(answer.encode("utf-8", "replace")).decode()
        self._keep(_Entry(Reply(request=request, hash=digest, answer=said, calls=self._begun), []))

    def _no_room(self, tape: Tape, more: int) -> str | None:
        """Count what a tape adds; return why there is no room for it, if so, and forget its answer."""
        if tape.full:
            return f"its answer has more than {ANSWER_BYTES} bytes, or S3 was away for long"
        self._written += len(tape.answer) + more + 512
        if self._written > ATTEMPT_BYTES or len(self._waiting) >= _HELD_CALLS:
            self.release(len(tape.answer))
            return f"the recording has {ATTEMPT_BYTES} bytes, or S3 was away for long"
        return None

    def _keep(self, entry: _Entry) -> None:
        self._waiting.append(entry)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())

    def _leave_out(self, number: int, why: str) -> None:
        self._left_out.setdefault(why, []).append(number)

    async def close(self, seconds: float) -> None:
        """Store what is left, for at most `seconds`."""
        if self._left_out and not self._waiting and (self._writer is None or self._writer.done()):
            self._writer = asyncio.create_task(self._write())
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=seconds)
            await cancel_and_wait([self._writer])
        if self._waiting:
            log.warning("calls not recorded", action="recording.incomplete", calls=len(self._waiting))

    async def _write(self) -> None:
        """Store everything that waits, as one object after the other."""
        try:
            while self._waiting or self._left_out:
                await self._store_waiting()
        except Exception as error:
            # A bug of ours must not end the run; the recording lacks what follows.
            log.exception("recording ended", action="recording.failed", error=type(error).__name__)

    async def _store_waiting(self) -> None:
        entries = list(self._waiting)
        gaps = [Gap(calls=numbers, why=why) for why, numbers in self._left_out.items()]
        self._left_out = {}
        first, new = self._first, self._new_parts(entries)
        # A large object is compressed in a thread, so that chunks do not wait.
        lines: list[Line] = [*first, *gaps, *new, *(entry.line for entry in entries)]
        data = await asyncio.to_thread(frame, *lines) if sum(one.size for one in entries) > MIB else frame(*lines)
        self._objects += 1
        await self._put(f"{self._prefix}{self._objects:06d}.zst", data)
        for entry in entries:
            self._waiting.popleft()
            self.release(entry.size)
        self._first = self._first[len(first) :]
        self._stored.update(part.number for part in new)

    def _new_parts(self, entries: Sequence[_Entry]) -> list[Part]:
        """Return the parts of the entries' requests that no stored object has."""
        new = {part.number: part for entry in entries for part in entry.parts if part.number not in self._stored}
        return [part if self._full else part.model_copy(update={"text": None}) for _, part in sorted(new.items())]

    async def _put(self, key: str, data: bytes) -> None:
        """Store an object; try again until `close` gives up."""
        pause = 1.0
        while True:
            with suppress(OcfError, OSError):
                await self._store.put(key, data, content_type=_TYPE)
                return
            if pause == 1.0:
                log.warning("recording not stored yet", action="recording.retry")
            await self._clock.sleep(pause)
            pause = min(_MAX_PAUSE, pause * 2)
