"""The output of an execution from wherever it is: the stream while it is there, else the archive.

A line is the JSON of a `Chunk` as it was published, passed on without being parsed.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from events import subjects
from events.ports import Bus, Message, ObjectStore
from events.splice import gap_chunk, place, sequence_in, sequence_of
from functions.gateway.core import Found, Gateway
from functions.gateway.problems import Problem

OUTPUT_NAME = "output.ndjson.gz"
#: A line of the archive is one chunk: 64 KiB of data and what it may grow by when escaped.
_MAX_LINE = 8 * 1024 * 1024
#: Lines held for one that is missing; a worker has at most 1,024 unacknowledged.
HELD = 4_096


@dataclass(frozen=True, slots=True)
class Line:
    """One chunk. `at` is its sequence in the stream, 0 when it comes from the archive."""

    seq: int
    data: bytes
    at: int = 0


def line_of(message: Message) -> Line:
    """The line of an output message."""
    at = message.sequence or int(message.headers.get("Nats-Sequence", 0))
    return Line(sequence_of(message), message.data, at)


async def streamed(bus: Bus, found: Found, *, after: int = 0) -> AsyncIterator[Line]:
    """What the stream has, from above its sequence `after`."""
    async for message in bus.history(subjects.OUTPUT, subjects.output(found.project, found.execution), after=after):
        yield line_of(message)


async def archived(store: ObjectStore, found: Found) -> AsyncIterator[Line]:
    """What the archive has. Raises NotYetKnown (`ObjectStore.stream`): there is none; Problem: it is damaged."""
    inflate = zlib.decompressobj(wbits=31)
    rest = b""
    async for piece in store.stream(f"{found.prefix}/{OUTPUT_NAME}"):
        # Bounded: an archive is data, and 1 MiB of gzip can be 1 GiB of zeros.
        while piece:
            try:
                rest += inflate.decompress(piece, _MAX_LINE)
            except zlib.error as error:
                raise _damaged(f"cannot be unpacked: {error}") from None
            piece = inflate.unconsumed_tail
            *lines, rest = rest.split(b"\n")
            if len(rest) > _MAX_LINE:
                raise _damaged("has a line that is no chunk")
            for data in lines:
                yield _archived_line(data)
    if not inflate.eof:
        raise _damaged("ends in the middle")
    if rest:
        yield _archived_line(rest)


def _archived_line(data: bytes) -> Line:
    try:
        return Line(sequence_in(data), data)
    except (ValueError, KeyError, TypeError):
        raise _damaged("has a line that is no chunk") from None


def _damaged(how: str) -> Problem:
    return Problem(502, "damaged-archive", f"the archived output {how}")


class Order:
    """Gives lines by their sequence, each once: a reconnect of the worker can leave two swapped in the stream."""

    def __init__(self, start: int) -> None:
        self.next = start
        self._early: dict[int, Line] = {}

    def __len__(self) -> int:
        """How many wait for one that has not come."""
        return len(self._early)

    def feed(self, line: Line) -> list[Line]:
        """The lines that can be given now."""
        if line.seq >= self.next:
            self._early.setdefault(line.seq, line)
        return self._ready()

    def skip(self, seq: int) -> list[Line]:
        """Give up everything below `seq`; the lines that can be given now."""
        self.next = max(self.next, seq)
        for early in [one for one in self._early if one < self.next]:
            del self._early[early]
        return self._ready()

    def hole_end(self, last: int) -> int:
        """The sequence behind the first hole; `last` is the newest there can be."""
        return min(self._early, default=last + 1)

    def _ready(self) -> list[Line]:
        ready = []
        while self.next in self._early:
            ready.append(self._early.pop(self.next))
            self.next += 1
        return ready


async def lines(gateway: Gateway, found: Found, start: int = 1) -> AsyncIterator[Line]:
    """Every chunk from `start` on, each once and in order.

    Of an execution that has ended, what the stream does not have comes from the archive, and what nobody has is a
    stated gap. While it runs, a missing chunk may still come: nothing behind it is given.
    """
    order = Order(start)
    after = await place(gateway.deps.bus, found.project, found.execution, start)
    async for line in streamed(gateway.deps.bus, found, after=after):
        for ready in order.feed(line):
            yield ready
        if len(order) > HELD:
            if not found.ended:
                return
            async for older in _hole(gateway, found, order):
                yield older
    while found.record is not None and found.ended and order.next <= found.record.last_sequence:
        async for older in _hole(gateway, found, order):
            yield older


async def _hole(gateway: Gateway, found: Found, order: Order) -> AsyncIterator[Line]:
    """Fill the first hole of `order` from the archive; state what is not there either."""
    last = found.record.last_sequence if found.record is not None else 0
    end = order.hole_end(last)
    if await gateway.deps.store.head(f"{found.prefix}/{OUTPUT_NAME}") is not None:
        async for line in archived(gateway.deps.store, found):
            if line.seq >= end:
                break
            for ready in order.feed(line):
                yield ready
    if order.next < end:
        yield gap(gateway, order.next, end - 1)
    for ready in order.skip(end):
        yield ready


def gap(gateway: Gateway, first: int, last: int, reason: Literal["expired", "lost"] = "expired") -> Line:
    """A chunk that says which are missing."""
    chunk = gap_chunk(first, last, gateway.deps.clock.now(), reason)
    return Line(last, chunk.model_dump_json(exclude_none=True).encode())
