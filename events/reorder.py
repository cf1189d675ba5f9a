"""The splice rule: live and history of one execution become one gapless stream (docs/how-to/watch-output.md).

1. Subscribe to the live subject first. 2. Read history. 3. Give each chunk once, by its `seq`.
4. A live chunk beyond the next expected one shows a hole: read history again from there. What four reads did not
   bring is stated as a chunk of type `gap`; nothing is skipped silently.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Literal, NamedTuple, Protocol

import structlog
from pydantic_core import from_json

from ocf.events import subjects
from ocf.events.output import Chunk, ChunkType
from ocf.events.ports import Bus, Message

log = structlog.get_logger()

_READ_AGAIN = 2.0
#: Reads of history for one hole before it is stated, and seconds to the second; the wait doubles with each. So a hole
#: lasts 1.75 s at most. The same in the console's stream library (`console/src/stream/watcher.ts`).
FILL_TRIES = 4
FILL_WAIT = 0.25
#: So many chunks can lie swapped in the stream after a reconnect of the worker: what it has unacknowledged at most.
SWAPPED = 1_024
#: Near enough: so many sequences of the stream are read in one go.
_NEAR = 256
_SEQ = re.compile(rb'^\{"seq":(\d{1,18})[,}]')
#: So begins a gap, as the models write it.
_GAP = re.compile(rb'^\{"seq":\d{1,18},"type":"gap"')
_GAPS = {"expired": "are not kept any more", "lost": "did not arrive"}


def chunk_of(message: Message) -> Chunk | None:
    """The chunk a message carries; None: it is none, and whoever misses one there is told of a gap."""
    try:
        return Chunk.read(message.data)
    except ValueError:
        log.warning("no chunk", action="splice.unreadable", subject=message.subject, sequence=message.sequence)
        return None


def gap_chunk(first: int, last: int, at: datetime, reason: Literal["expired", "lost"] = "expired") -> Chunk:
    """A chunk that stands for all from `first` to `last`, which nobody has."""
    return Chunk(
        seq=first,
        type=ChunkType.GAP,
        data=f"chunks {first} to {last} {_GAPS[reason]}",
        timestamp=at,
        detail={"reason": reason, "from": first, "to": last},
    )


def sequence_of(message: Message) -> int:
    """The number of the chunk a message carries: the event's extension, so that nothing is parsed."""
    said = message.headers.get("ce-sequence") or message.headers.get("Ce-Sequence")
    return int(said) if said is not None else sequence_in(message.data)


def sequence_in(line: bytes) -> int:
    """The number of a chunk, from its JSON. Raises ValueError, KeyError or TypeError when it is none."""
    found = _SEQ.match(line)
    return int(found[1]) if found else int(json.loads(line)["seq"])


class Stated(NamedTuple):
    """A gap that stands for chunks up to `last`."""

    last: int
    reason: Literal["expired", "lost"]


def stated(chunk: Chunk) -> Stated | None:
    """The gap that `chunk` states; None: it is no gap, or one that stands for itself, such as that of a limit."""
    detail = chunk.detail or {}
    last = detail.get("to")
    if chunk.type is not ChunkType.GAP or detail.get("from") != chunk.seq or type(last) is not int or last < chunk.seq:
        return None
    return Stated(last, "lost" if detail.get("reason") == "lost" else "expired")


def stated_in(line: bytes) -> Stated | None:
    """The same of the JSON of a chunk. Raises ValueError when it is none."""
    return stated(Chunk.read(line)) if _GAP.match(line) else None


def line_in(message: Message) -> tuple[int, bytes] | None:
    """The number and the line of the chunk a message carries; None: it is no chunk, or more than a line."""
    try:
        sequence, chunk = sequence_of(message), from_json(message.data)
    except (ValueError, KeyError, TypeError):
        chunk = None
    if isinstance(chunk, dict) and chunk.get("seq") == sequence and b"\n" not in message.data:
        return sequence, message.data
    log.warning("no chunk", action="splice.unreadable", subject=message.subject, sequence=message.sequence)
    return None


class GapTimer:
    """When history is read for a missing chunk, and when it is given up. Times are seconds of any clock."""

    def __init__(self) -> None:
        self._missing: int | None = None
        self._tries = 0
        self._read = float("-inf")

    def wait(self, missing: int, now: float) -> float:
        """Seconds until history should be read for `missing`; 0 is now."""
        tries = self._tries if missing == self._missing else 0
        return max(0.0, self._read + FILL_WAIT * 2.0 ** max(0, tries - 1) - now)

    def read(self, missing: int | None, now: float) -> bool:
        """History was read and lacks `missing` (None: nothing): whether that one is to be given up."""
        self._tries = self._tries + 1 if missing == self._missing else 1
        self._missing, self._read = missing, now
        return missing is not None and self._tries >= FILL_TRIES


class Reorderer:
    """Orders chunks and drops repeats. Pure: no I/O, no clock."""

    def __init__(self, start: int = 1) -> None:
        self.next = start
        self._early: dict[int, Chunk] = {}

    @property
    def gap(self) -> bool:
        """Whether chunks are waiting for one that has not come."""
        return bool(self._early)

    def feed(self, chunk: Chunk) -> list[Chunk]:
        """The chunks that can be given now, in order."""
        if chunk.seq < self.next:
            return []
        self._early.setdefault(chunk.seq, chunk)
        return self._ready()

    def hole_end(self, last: int | None = None) -> int:
        """The last sequence of the first hole; `last` is the newest there can be."""
        return min(self._early, default=(last or self.next - 1) + 1) - 1

    def skip(self, last: int) -> list[Chunk]:
        """Give up everything up to `last`; the chunks that can be given now."""
        self.next = max(self.next, last + 1)
        self._early = {seq: chunk for seq, chunk in self._early.items() if seq >= self.next}
        return self._ready()

    def _ready(self) -> list[Chunk]:
        ready = []
        while self.next in self._early:
            ready.append(self._early.pop(self.next))
            self.next += 1
        return ready


async def place(bus: Bus, project: str, execution: str, start: int) -> int:
    """A sequence of the stream behind which every chunk from `start` on lies: who resumes does not read all before it.

    By halves, with some 20 single reads, so only for who begins far behind the first chunk; else 0, the beginning.
    """
    wanted, subject = start - SWAPPED, subjects.output(project, execution)
    if wanted <= SWAPPED or (last := await bus.last(subjects.OUTPUT, subject)) is None:
        return 0
    before, behind = 0, last.sequence
    while behind - before > _NEAR:
        middle = (before + behind) // 2
        found = await bus.first(subjects.OUTPUT, subject, after=middle)
        if found is None or found.sequence >= behind or (line_in(found) or (wanted,))[0] >= wanted:
            behind = middle
        else:
            before = found.sequence
    return before


class EndCondition(Protocol):
    """Knows whether an execution has ended, and at which sequence."""

    @property
    def last(self) -> int | None:
        """Its last sequence, once it has ended."""
        ...

    def reached(self, next_sequence: int) -> bool:
        """Whether no chunk with `next_sequence` will come."""
        ...

    async def look(self) -> None:
        """Find out anew."""
        ...

    async def fact(self, message: Message) -> None:
        """A fact of the execution was said."""
        ...

    def older(self, start: int) -> AsyncIterator[Chunk]:
        """What is kept elsewhere from `start` on, of an execution that has ended; nothing if there is no such place."""
        ...


async def watch(
    bus: Bus,
    project: str,
    execution: str,
    *,
    start: int,
    ending: EndCondition,
    poll: float = _READ_AGAIN,
    forgotten: bool = False,
) -> AsyncIterator[Chunk]:
    """Every chunk from `start`, live as it comes, until `ending` says that there is no more.

    Facts come over the same subscription, so that the end is known at once. `poll`: seconds of silence after which
    history is read again, in case something was lost on the way. `forgotten`: the execution has ended and the stream
    does not begin with `start`, so that nothing is waited for.
    """
    reorderer, hole, now = Reorderer(start), GapTimer(), asyncio.get_running_loop().time
    heard = (subjects.live(project, execution), f"ocf.evt.{project}.{execution}.*")

    def missing() -> int | None:
        return reorderer.next if reorderer.gap or (ending.last or 0) >= reorderer.next else None

    async with bus.listen(*heard) as live:
        read_from = await place(bus, project, execution, start)
        while True:
            await ending.look()  # after subscribing: an end before that was not heard
            async for message in bus.history(subjects.OUTPUT, subjects.output(project, execution), after=read_from):
                read_from = message.sequence
                if (found := chunk_of(message)) is not None:
                    for chunk in reorderer.feed(found):
                        yield chunk
            if ending.reached(reorderer.next):
                return
            if hole.read(missing(), now()) or (forgotten and missing() is not None):
                async with aclosing(_given_up(reorderer, ending)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                continue
            async with aclosing(_live(live, reorderer, poll, ending, hole, missing)) as chunks:
                async for chunk in chunks:
                    yield chunk


async def _given_up(reorderer: Reorderer, ending: EndCondition) -> AsyncGenerator[Chunk, None]:
    """Past the first hole: by what is kept elsewhere, and a stated gap for what is not there either.

    What is kept elsewhere is in order, and may have holes of its own, stated or not.
    """
    end = reorderer.hole_end(ending.last)
    if ending.last is not None:
        async for chunk in ending.older(reorderer.next):
            if chunk.seq > end:
                break
            gap = stated(chunk)
            if chunk.seq > reorderer.next:
                yield gap_chunk(reorderer.next, chunk.seq - 1, datetime.now(UTC))
                reorderer.skip(chunk.seq - 1)
            if gap is None:
                for one in reorderer.feed(chunk):
                    yield one
            elif gap.last >= reorderer.next:
                last = min(gap.last, end)
                yield gap_chunk(reorderer.next, last, chunk.timestamp, gap.reason)
                for one in reorderer.skip(last):
                    yield one
    if reorderer.next <= end:
        yield gap_chunk(reorderer.next, end, datetime.now(UTC), "lost" if ending.last is None else "expired")
    for one in reorderer.skip(end):
        yield one


async def _live(
    live: AsyncIterator[Message],
    reorderer: Reorderer,
    poll: float,
    ending: EndCondition,
    hole: GapTimer,
    missing: Callable[[], int | None],
) -> AsyncGenerator[Chunk, None]:
    """Live chunks until history should be read: for a missing one, after `poll` seconds of silence, at the end."""
    now = asyncio.get_running_loop().time
    while not ending.reached(reorderer.next):
        wanted = missing()
        wait = poll if wanted is None else hole.wait(wanted, now())
        if not wait:
            return
        try:
            async with asyncio.timeout(wait):
                message = await anext(live)
        except TimeoutError:
            return
        if message.subject.startswith("ocf.evt."):
            await ending.fact(message)
            continue
        if (found := chunk_of(message)) is not None:
            for chunk in reorderer.feed(found):
                yield chunk
