"""Merging of live output and history of one execution into one stream without gaps (docs/how-to/watch-output.md).

1. Subscribe to the live subject first. 2. Read the history. 3. Yield each chunk once, by its `seq`.
4. A live chunk beyond the next expected one shows a gap: read the history again from there. Chunks that are missing
   after four reads become a chunk of type `gap`; nothing is skipped silently.
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

_POLL_SECONDS = 2.0
#: Reads of the history before a gap is reported, and seconds before the second read; each further wait doubles. A gap
#: therefore lasts 1.75 s at most. The console's stream library has the same values (`console/src/stream/watcher.ts`).
FILL_TRIES = 4
FILL_WAIT = 0.25
#: Maximum distance of a chunk from its place in the stream after a worker's reconnect: the worker's unacknowledged
#: messages.
MAX_DISPLACEMENT = 1_024
#: Number of stream sequences at which the binary search of `seek` stops.
_SCAN_WINDOW = 256
_SEQ = re.compile(rb'^\{"seq":(\d{1,18})[,}]')
#: Beginning of a serialised gap.
_GAP = re.compile(rb'^\{"seq":\d{1,18},"type":"gap"')
_GAPS = {"expired": "are no longer stored", "lost": "did not arrive"}


def chunk_of(message: Message) -> Chunk | None:
    """Return the chunk in a message, or None if the message is not a chunk; watchers then get a gap."""
    try:
        return Chunk.read(message.data)
    except ValueError:
        log.warning(
            "message is not a chunk",
            action="output.unreadable_chunk",
            subject=message.subject,
            sequence=message.sequence,
        )
        return None


def gap_chunk(first: int, last: int, at: datetime, reason: Literal["expired", "lost"] = "expired") -> Chunk:
    """Return a chunk of type `gap` for the missing chunks from `first` to `last`."""
    return Chunk(
        seq=first,
        type=ChunkType.GAP,
        data=f"chunks {first} to {last} {_GAPS[reason]}",
        timestamp=at,
        detail={"reason": reason, "from": first, "to": last},
    )


def sequence_of(message: Message) -> int:
    """Return the sequence of the chunk in a message, from the event's extension if possible, without parsing."""
    sequence = message.headers.get("ce-sequence") or message.headers.get("Ce-Sequence")
    return int(sequence) if sequence is not None else sequence_in(message.data)


def sequence_in(line: bytes) -> int:
    """Return the sequence of a serialised chunk. Raises ValueError, KeyError or TypeError if it is not a chunk."""
    found = _SEQ.match(line)
    return int(found[1]) if found else int(json.loads(line)["seq"])


class Gap(NamedTuple):
    """A reported gap up to and including sequence `last`."""

    last: int
    reason: Literal["expired", "lost"]


def gap_of(chunk: Chunk) -> Gap | None:
    """Return the range that a chunk of type `gap` reports, or None.

    Other chunks, and gaps without a range such as that of the output limit, report none.
    """
    detail = chunk.detail or {}
    last = detail.get("to")
    if chunk.type is not ChunkType.GAP or detail.get("from") != chunk.seq or type(last) is not int or last < chunk.seq:
        return None
    return Gap(last, "lost" if detail.get("reason") == "lost" else "expired")


def gap_in(line: bytes) -> Gap | None:
    """Return the range that a serialised chunk reports, or None. Raises ValueError if it is not a chunk."""
    return gap_of(Chunk.read(line)) if _GAP.match(line) else None


def line_in(message: Message) -> tuple[int, bytes] | None:
    """Return sequence and line of the chunk in a message, or None if it is not a chunk of one line."""
    try:
        sequence, chunk = sequence_of(message), from_json(message.data)
    except (ValueError, KeyError, TypeError):
        chunk = None
    if isinstance(chunk, dict) and chunk.get("seq") == sequence and b"\n" not in message.data:
        return sequence, message.data
    log.warning(
        "message is not a chunk", action="output.unreadable_chunk", subject=message.subject, sequence=message.sequence
    )
    return None


class GapTimer:
    """Schedule of history reads for a missing chunk. Times are seconds of any one clock."""

    def __init__(self) -> None:
        self._missing: int | None = None
        self._tries = 0
        self._read = float("-inf")

    def wait(self, missing: int, now: float) -> float:
        """Return the seconds until the next history read for `missing`; 0 means now."""
        tries = self._tries if missing == self._missing else 0
        return max(0.0, self._read + FILL_WAIT * 2.0 ** max(0, tries - 1) - now)

    def read(self, missing: int | None, now: float) -> bool:
        """Record a history read without `missing` (None: nothing is missing); return whether to report a gap."""
        self._tries = self._tries + 1 if missing == self._missing else 1
        self._missing, self._read = missing, now
        return missing is not None and self._tries >= FILL_TRIES


class Reorderer:
    """Restores the order of chunks and drops duplicates. Pure: no I/O, no clock."""

    def __init__(self, start: int = 1) -> None:
        self.next = start
        self._early: dict[int, Chunk] = {}

    @property
    def gap(self) -> bool:
        """Return whether chunks wait for a missing one."""
        return bool(self._early)

    def feed(self, chunk: Chunk) -> list[Chunk]:
        """Add a chunk; return the chunks that are ready, in order."""
        if chunk.seq < self.next:
            return []
        self._early.setdefault(chunk.seq, chunk)
        return self._ready()

    def gap_end(self, last: int | None = None) -> int:
        """Return the last sequence of the first gap; `last` is the highest possible sequence, if known."""
        return min(self._early, default=(last or self.next - 1) + 1) - 1

    def skip(self, last: int) -> list[Chunk]:
        """Skip missing chunks up to `last`; return the chunks that are ready."""
        self.next = max(self.next, last + 1)
        self._early = {seq: chunk for seq, chunk in self._early.items() if seq >= self.next}
        return self._ready()

    def _ready(self) -> list[Chunk]:
        ready = []
        while self.next in self._early:
            ready.append(self._early.pop(self.next))
            self.next += 1
        return ready


async def seek(bus: Bus, project: str, execution: str, start: int) -> int:
    """Return a stream sequence before every chunk from `start` on, so that a resume does not read the whole history.

    The binary search takes about 20 single reads. It is worthwhile only far behind the first chunk; otherwise the
    result is 0, the beginning.
    """
    wanted, subject = start - MAX_DISPLACEMENT, subjects.output(project, execution)
    if wanted <= MAX_DISPLACEMENT or (last := await bus.last(subjects.OUTPUT, subject)) is None:
        return 0
    before, behind = 0, last.sequence
    while behind - before > _SCAN_WINDOW:
        middle = (before + behind) // 2
        found = await bus.first(subjects.OUTPUT, subject, after=middle)
        if found is None or found.sequence >= behind or (line_in(found) or (wanted,))[0] >= wanted:
            behind = middle
        else:
            before = found.sequence
    return before


class EndCondition(Protocol):
    """The end of an execution, and its last sequence."""

    @property
    def last(self) -> int | None:
        """The last sequence after the end, else None."""
        ...

    def reached(self, next_sequence: int) -> bool:
        """Return whether no chunk with `next_sequence` will arrive."""
        ...

    async def refresh(self) -> None:
        """Read the current state."""
        ...

    async def on_fact(self, message: Message) -> None:
        """Handle a fact of the execution."""
        ...

    def archived(self, start: int) -> AsyncIterator[Chunk]:
        """Yield the archived chunks of an ended execution from `start` on; nothing without an archive."""
        ...


async def watch(
    bus: Bus,
    project: str,
    execution: str,
    *,
    start: int,
    ending: EndCondition,
    poll: float = _POLL_SECONDS,
    expired: bool = False,
) -> AsyncIterator[Chunk]:
    """Yield every chunk from `start`, live as it arrives, until the end of the execution.

    Args:
        bus: The bus.
        project: The project.
        execution: The execution.
        start: First sequence.
        ending: Determines the end. Facts arrive over the same subscription, so that the end is known at once.
        poll: Seconds without a message until the history is read again, in case a live message was lost.
        expired: The execution has ended and the stream no longer has `start`; a gap is not waited for.
    """
    reorderer, gap_timer, now = Reorderer(start), GapTimer(), asyncio.get_running_loop().time
    subscribed = (subjects.live(project, execution), f"ocf.evt.{project}.{execution}.*")

    def missing() -> int | None:
        return reorderer.next if reorderer.gap or (ending.last or 0) >= reorderer.next else None

    async with bus.listen(*subscribed) as live:
        read_from = await seek(bus, project, execution, start)
        while True:
            await ending.refresh()  # after subscribing: the subscription has no earlier facts
            async for message in bus.history(subjects.OUTPUT, subjects.output(project, execution), after=read_from):
                read_from = message.sequence
                if (found := chunk_of(message)) is not None:
                    for chunk in reorderer.feed(found):
                        yield chunk
            if ending.reached(reorderer.next):
                return
            if gap_timer.read(missing(), now()) or (expired and missing() is not None):
                async with aclosing(_fill_gap(reorderer, ending)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                continue
            async with aclosing(_live(live, reorderer, poll, ending, gap_timer, missing)) as chunks:
                async for chunk in chunks:
                    yield chunk


async def _fill_gap(reorderer: Reorderer, ending: EndCondition) -> AsyncGenerator[Chunk, None]:
    """Yield the first gap from the archive; report chunks that the archive does not have as a gap.

    The archive is in order, and may have gaps of its own, reported or not.
    """
    end = reorderer.gap_end(ending.last)
    if ending.last is not None:
        async for chunk in ending.archived(reorderer.next):
            if chunk.seq > end:
                break
            gap = gap_of(chunk)
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
    gap_timer: GapTimer,
    missing: Callable[[], int | None],
) -> AsyncGenerator[Chunk, None]:
    """Yield live chunks until the next history read is due or the execution ends."""
    now = asyncio.get_running_loop().time
    while not ending.reached(reorderer.next):
        wanted = missing()
        wait = poll if wanted is None else gap_timer.wait(wanted, now())
        if not wait:
            return
        try:
            async with asyncio.timeout(wait):
                message = await anext(live)
        except TimeoutError:
            return
        if message.subject.startswith("ocf.evt."):
            await ending.on_fact(message)
            continue
        if (found := chunk_of(message)) is not None:
            for chunk in reorderer.feed(found):
                yield chunk
