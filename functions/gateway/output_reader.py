"""Output of an execution: from the stream while it is there, else from the archive.

A line is the JSON of a `Chunk` as published, passed on without being parsed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from ocf.events import subjects
from ocf.events.archive_reader import DamagedArchive, read_lines
from ocf.events.ports import Bus, Message, ObjectStore
from ocf.events.reorder import gap_chunk, gap_in, line_in, seek, sequence_in
from ocf.functions.gateway.context import ExecutionHandle, Gateway
from ocf.functions.gateway.problems import Problem

OUTPUT_NAME = "output.ndjson.gz"
#: Lines held while one is missing; a worker has at most 1,024 unacknowledged.
HELD = 4_096


@dataclass(frozen=True, slots=True)
class OutputLine:
    """One chunk. `at` is its sequence in the stream, 0 when it comes from the archive.

    A gap for several chunks has the sequence of the last of them.
    """

    seq: int
    data: bytes
    at: int = 0


def line_of(message: Message) -> OutputLine | None:
    """Return the line of an output message; None when it is not a chunk (readers get a gap for it)."""
    found = line_in(message)
    at = message.sequence or int(message.headers.get("Nats-Sequence", 0))
    return None if found is None else OutputLine(*found, at)


async def streamed(bus: Bus, found: ExecutionHandle, *, after: int = 0) -> AsyncIterator[OutputLine]:
    """Yield the lines of the stream after its sequence `after`."""
    async for message in bus.history(subjects.OUTPUT, subjects.output(found.project, found.execution), after=after):
        if (line := line_of(message)) is not None:
            yield line


async def archived(store: ObjectStore, found: ExecutionHandle) -> AsyncIterator[OutputLine]:
    """Yield the lines of the archive.

    Raises:
        NotYetKnown: there is no archive (`ObjectStore.stream`).
        Problem: it is damaged.
    """
    try:
        async for data in read_lines(store.stream(f"{found.prefix}/{OUTPUT_NAME}"), whole=None):
            yield OutputLine(sequence_in(data), data)
    except DamagedArchive as error:
        raise Problem(502, "damaged-archive", str(error)) from None
    except (ValueError, KeyError, TypeError):
        raise Problem(502, "damaged-archive", "the archived output has a line that is not a chunk") from None


class OutputReorderer:
    """Returns lines in order of their sequence, each once: a worker's reconnect can swap two in the stream."""

    def __init__(self, start: int) -> None:
        self.next = start
        self._early: dict[int, OutputLine] = {}

    def __len__(self) -> int:
        """Return the number of lines held for a missing one."""
        return len(self._early)

    def feed(self, line: OutputLine) -> list[OutputLine]:
        """Add a line; return the lines that are now in order."""
        if line.seq >= self.next:
            self._early.setdefault(line.seq, line)
        return self._ready()

    def skip(self, seq: int) -> list[OutputLine]:
        """Stop waiting for sequences below `seq`; return the lines that are now in order."""
        self.next = max(self.next, seq)
        for early in [one for one in self._early if one < self.next]:
            del self._early[early]
        return self._ready()

    def gap_end(self, last: int) -> int:
        """Return the sequence after the first gap; `last` is the highest possible one."""
        return min(self._early, default=last + 1)

    def _ready(self) -> list[OutputLine]:
        ready = []
        while self.next in self._early:
            ready.append(self._early.pop(self.next))
            self.next += 1
        return ready


async def lines(
    gateway: Gateway, found: ExecutionHandle, start: int = 1, to: int | None = None
) -> AsyncIterator[OutputLine]:
    """Yield every chunk from `start` up to `to`, each once and in order.

    For an execution that has ended, chunks that the stream lacks come from the archive, and those that neither has
    become a stated gap. While it runs, a missing chunk may still arrive, so nothing after it is yielded.
    """
    last = found.record.last_sequence if found.record is not None else 0
    stop = last if to is None else min(to, last)
    async for line in _all(gateway, found, OutputReorderer(start), stop):
        if to is not None and line.seq > to:
            return
        yield line
        if line.seq == to:
            return


async def _all(
    gateway: Gateway, found: ExecutionHandle, order: OutputReorderer, stop: int
) -> AsyncIterator[OutputLine]:
    after = await seek(gateway.deps.bus, found.project, found.execution, order.next)
    async for line in streamed(gateway.deps.bus, found, after=after):
        for ready in order.feed(line):
            yield ready
        if len(order) > HELD:
            if not found.ended:
                return
            async for older in _fill_gap(gateway, found, order, stop):
                yield older
    while found.ended and order.next <= stop:
        async for older in _fill_gap(gateway, found, order, stop):
            yield older


async def _fill_gap(
    gateway: Gateway, found: ExecutionHandle, order: OutputReorderer, stop: int
) -> AsyncIterator[OutputLine]:
    """Fill the first gap of `order`, up to `stop`, from the archive; state what the archive lacks too.

    The archive is in order and may have gaps of its own, stated or not.
    """
    end = min(order.gap_end(stop), max(stop + 1, order.next))
    if await gateway.deps.store.head(f"{found.prefix}/{OUTPUT_NAME}") is not None:
        async for line in archived(gateway.deps.store, found):
            if line.seq >= end:
                break
            if line.seq > order.next:
                yield gap(gateway, order.next, line.seq - 1)
                order.skip(line.seq)
            stated = gap_in(line.data)
            if stated is None:
                for ready in order.feed(line):
                    yield ready
            elif stated.last >= order.next:
                last = min(stated.last, end - 1)
                yield gap(gateway, order.next, last, stated.reason)
                for ready in order.skip(last + 1):
                    yield ready
    if order.next < end:
        yield gap(gateway, order.next, end - 1)
    for ready in order.skip(end):
        yield ready


def gap(gateway: Gateway, first: int, last: int, reason: Literal["expired", "lost"] = "expired") -> OutputLine:
    """Return a chunk that states a gap."""
    chunk = gap_chunk(first, last, gateway.deps.clock.now(), reason)
    return OutputLine(last, chunk.model_dump_json(exclude_none=True).encode())
