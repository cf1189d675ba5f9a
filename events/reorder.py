"""Order of an execution's output: each chunk once, in sequence, every gap reported (docs/how-to/watch-output.md).

Client, gateway, archive and WebSocket use `Reorderer`. The console's stream library has the same rules
(`console/src/stream/splice.ts`); `tests/unit/data/reorder.json` holds both to them.

1. Subscribe to the live subject first. 2. Read the history. 3. Yield each chunk once, by its `seq`.
4. A live chunk beyond the next expected one shows a gap: read the history again from there. Chunks that are missing
   after four reads become a chunk of type `gap`; nothing is skipped silently.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal, NamedTuple

import structlog
from pydantic_core import from_json

from ocf.events import subjects
from ocf.events.ports import Bus, Message

log = structlog.get_logger()

#: Reads of the history before a gap is reported, and seconds before the second read; each further wait doubles. A gap
#: therefore lasts 1.75 s at most. The console has the same values (`console/src/stream/connection.ts`).
FILL_TRIES = 4
FILL_WAIT = 0.25
#: Lines held while one is missing; a worker has at most 1,024 unacknowledged.
HELD = 4_096
HELD_BYTES = 64 * 1024 * 1024
#: Maximum distance of a chunk from its place in the stream after a worker's reconnect: the worker's unacknowledged
#: messages.
MAX_DISPLACEMENT = 1_024
#: Number of stream sequences at which the binary search of `seek` stops.
_SCAN_WINDOW = 256
_SEQ = re.compile(rb'^\{"seq":(\d{1,18})[,}]')
Reason = Literal["expired", "lost"]
_GAPS = {"expired": "are no longer stored", "lost": "did not arrive"}


class Gap(NamedTuple):
    """A reported gap up to and including sequence `last`."""

    last: int
    reason: Reason


class Line(NamedTuple):
    """One chunk as JSON, without its line end. `at` is its sequence in the stream, 0 when it is not from there.

    `gap` is set when it reports a gap of all sequences from `seq` to `gap.last`.
    """

    seq: int
    data: bytes
    gap: Gap | None = None
    at: int = 0

    @property
    def last(self) -> int:
        """Return the last sequence that it stands for."""
        return self.seq if self.gap is None else self.gap.last


def gap_line(first: int, last: int, at: datetime, reason: Reason = "expired") -> Line:
    """Return a chunk of type `gap` for the missing chunks from `first` to `last`."""
    chunk = {
        "seq": first,
        "type": "gap",
        "data": f"chunks {first} to {last} {_GAPS[reason]}",
        "timestamp": at.isoformat().replace("+00:00", "Z"),
        "attempt": 1,
        "detail": {"reason": reason, "from": first, "to": last},
    }
    return Line(first, json.dumps(chunk, separators=(",", ":")).encode(), Gap(last, reason))


def gap_lines(now: Callable[[], datetime]) -> Callable[[int, int, Reason], Line]:
    """Return a function that makes the line for a gap, with the time that `now` returns."""
    return lambda first, last, reason: gap_line(first, last, now(), reason)


def line_of(data: bytes) -> Line:
    """Return a serialised chunk as a line. Raises ValueError, KeyError or TypeError if it is not a chunk."""
    found = _SEQ.match(data)
    return Line(int(found[1]), data) if found and b'"gap"' not in data else line_from(from_json(data), data)


def line_from(chunk: dict[str, Any], data: bytes, at: int = 0) -> Line:
    """Return a parsed chunk as a line. Raises ValueError, KeyError or TypeError if it is not a chunk."""
    sequence = chunk["seq"]
    if type(sequence) is not int:
        raise TypeError("seq is not an integer")
    return Line(sequence, data, _gap_in(chunk), at)


def line_in(message: Message) -> Line | None:
    """Return the chunk in a message, or None if it is not a chunk of one line."""
    at = message.sequence or int(message.headers.get("Nats-Sequence", 0))
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        line = line_from(from_json(message.data), message.data, at)
        stated = message.headers.get("ce-sequence") or message.headers.get("Ce-Sequence")
        if (stated is None or int(stated) == line.seq) and b"\n" not in message.data:
            return line
    log.warning(
        "message is not a chunk", action="output.unreadable_chunk", subject=message.subject, sequence=message.sequence
    )
    return None


def _gap_in(chunk: dict[str, Any]) -> Gap | None:
    """Return the range that a chunk reports; a gap of the output limit has none."""
    detail = chunk.get("detail")
    if chunk.get("type") != "gap" or not isinstance(detail, dict):
        return None
    last = detail.get("to")
    if detail.get("from") != chunk["seq"] or type(last) is not int or last < chunk["seq"]:
        return None
    return Gap(last, "lost" if detail.get("reason") == "lost" else "expired")


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
    """Puts lines from any number of sources into one sequence: each once, in order, no gap unreported.

    Pure: no I/O; the time of a reported gap comes from `gap`. Memory is bounded: beyond `held` lines or `held_bytes`
    bytes the lines with the highest sequences are dropped, which the history has.

    Args:
        start: Sequence of the first line wanted.
        gap: Makes the line that reports a gap; arguments: first and last sequence, reason.
    """

    def __init__(
        self, start: int, gap: Callable[[int, int, Reason], Line], *, held: int = HELD, held_bytes: int = HELD_BYTES
    ) -> None:
        self.next = start
        self._gap = gap
        self._most, self._most_bytes = held, held_bytes
        self._held: dict[int, Line] = {}
        self._order: list[int] = []  # a heap of the sequences in `_held`, and of some that were there
        self._bytes = 0

    def __len__(self) -> int:
        """Return the number of lines held for a missing one."""
        return len(self._held)

    @property
    def full(self) -> bool:
        """Return whether no more lines are held: fill or report the gap."""
        return len(self._held) >= self._most or self._bytes >= self._most_bytes

    @property
    def missing(self) -> int | None:
        """Return the last sequence of the first gap, which begins at `next`; None without one."""
        first = self._first()
        return None if first is None else first - 1

    def feed(self, line: Line) -> list[Line]:
        """Add a line; return the lines that are ready, in order."""
        if line.last < self.next:
            return []
        if line.seq > self.next:
            self._hold(line)
            return []
        if line.gap is not None:
            return self._advance(line.gap, line)
        self.next += 1
        return [line, *self._advance()] if self._held else [line]

    def skip(self, last: int | None = None, reason: Reason = "lost") -> list[Line]:
        """Report everything up to `last` as a gap, except what is held; return the lines that are ready.

        Args:
            last: Default: the end of the first gap.
            reason: Reason that the gap states.
        """
        last = self.missing if last is None else last
        return [] if last is None or last < self.next else self._advance(Gap(last, reason))

    def finish(self, last: int = 0) -> list[Line]:
        """Report every gap before what is held, and up to `last`; return all lines that are left."""
        return self.skip(max((last, *self._held)))

    def _advance(self, gap: Gap | None = None, stated: Line | None = None) -> list[Line]:
        """Return what is ready: held lines, and gaps up to the end of `gap`, which the line `stated` reports."""
        ready: list[Line] = []
        while True:
            held = self._take(self.next)
            if held is not None and held.gap is None:
                ready.append(held)
                self.next += 1
                continue
            if held is not None and (gap is None or held.last > gap.last):
                gap, stated = held.gap, held
            if gap is None or gap.last < self.next:
                break
            last = min(gap.last, (self._first() or gap.last + 1) - 1)
            whole = stated is not None and (stated.seq, stated.last) == (self.next, last)
            ready.append(stated if whole and stated else self._gap(self.next, last, gap.reason))
            self.next = last + 1
        return ready

    def _hold(self, line: Line) -> None:
        before = self._held.get(line.seq)
        if before is not None and (before.gap is None or line.gap is not None):
            return
        if before is None:
            if self.full and line.seq > max(self._held):
                return
            heapq.heappush(self._order, line.seq)
            if len(self._order) > 2 * len(self._held) + _SCAN_WINDOW:
                self._order = sorted((*self._held, line.seq))
        self._held[line.seq] = line
        self._bytes += len(line.data) - (len(before.data) if before else 0)
        while len(self._held) > self._most or (self._bytes > self._most_bytes and len(self._held) > 1):
            self._take(max(self._held))

    def _take(self, seq: int) -> Line | None:
        line = self._held.pop(seq, None)
        self._bytes -= len(line.data) if line else 0
        return line

    def _first(self) -> int | None:
        """Return the lowest sequence held."""
        while self._order and (self._order[0] < self.next or self._order[0] not in self._held):
            heapq.heappop(self._order)
        return self._order[0] if self._order else None


async def fill_gap(
    order: Reorderer, archived: AsyncIterator[Line], last: int, reason: Reason = "expired"
) -> AsyncGenerator[Line, None]:
    """Yield the gap from `order.next` to `last` from an archive; report what the archive lacks too.

    The archive is in order, and may have gaps of its own, reported or not.
    """
    async for line in archived:
        if line.seq > last:
            break
        for ready in (*order.skip(line.seq - 1, "expired"), *_within(order, line, last)):
            yield ready
    for ready in order.skip(last, reason):
        yield ready


def _within(order: Reorderer, line: Line, last: int) -> list[Line]:
    """Add an archived line; a gap only up to `last`, since the stream may have what is beyond."""
    return order.skip(last, line.gap.reason) if line.gap and line.last > last else order.feed(line)


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
