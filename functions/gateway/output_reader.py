"""Output of an execution: from the stream while it is there, else from the archive.

A line is the JSON of a `Chunk` as published, passed on without being parsed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from ocf.events import subjects
from ocf.events.errors import Unavailable
from ocf.events.gzip_ndjson import DamagedArchive, read_lines
from ocf.events.ports import Bus, ObjectStore
from ocf.events.reorder import Line, Reason, Reorderer, fill_gap, gap_lines, line_in, line_of, seek
from ocf.functions.gateway.context import ExecutionHandle, Gateway
from ocf.functions.gateway.problems import Problem

OUTPUT_NAME = "output.ndjson.gz"


async def streamed(bus: Bus, found: ExecutionHandle, *, after: int = 0) -> AsyncIterator[Line]:
    """Yield the lines of the stream after its sequence `after`."""
    async for message in bus.history(subjects.OUTPUT, subjects.output(found.project, found.execution), after=after):
        if (line := line_in(message)) is not None:
            yield line


async def archived(store: ObjectStore, found: ExecutionHandle) -> AsyncIterator[Line]:
    """Yield the lines of the archive; none without one.

    Raises:
        Problem: it is damaged.
    """
    if await store.head(f"{found.prefix}/{OUTPUT_NAME}") is None:
        return
    try:
        async for data in read_lines(store.stream(f"{found.prefix}/{OUTPUT_NAME}"), whole=None):
            yield line_of(data)
    except DamagedArchive as error:
        raise Problem(502, "damaged-archive", str(error)) from None
    except (ValueError, KeyError, TypeError):
        raise Problem(502, "damaged-archive", "the archived output has a line that is not a chunk") from None


async def lines(gateway: Gateway, found: ExecutionHandle, start: int = 1, to: int | None = None) -> AsyncIterator[Line]:
    """Yield every chunk from `start` up to `to`, each once and in order.

    For an execution that has ended, chunks that the stream lacks come from the archive, and those that neither has
    become a stated gap. While it runs, a missing chunk may still arrive, so nothing after it is yielded.

    Raises:
        Unavailable: a replica that lags was read, which would make a gap; or the bus does not answer.
    """
    last = found.record.last_sequence if found.record is not None else 0
    stop = last if to is None else min(to, last)
    async for line in _all(gateway, found, start, stop):
        if to is not None and line.seq > to:
            return
        yield line
        if line.last == to:
            return


async def _all(gateway: Gateway, found: ExecutionHandle, start: int, stop: int) -> AsyncIterator[Line]:
    bus, subject = gateway.deps.bus, subjects.output(found.project, found.execution)
    make, lags = gap_lines(gateway.deps.clock.now), False

    def gap(first: int, last: int, reason: Reason) -> Line:
        if lags:
            raise Unavailable(f"output of {found.execution} cannot be read to its end yet")
        return make(first, last, reason)

    order = Reorderer(start, gap)
    read = await seek(bus, found.project, found.execution, start)
    async for message in bus.history(subjects.OUTPUT, subject, after=read):
        line, read = line_in(message), message.sequence
        for ready in order.feed(line) if line is not None else ():
            yield ready
        if order.full:
            if not found.ended:
                return
            async for older in _fill_gap(gateway, found, order, stop):
                yield older
    if found.ended and order.next <= stop:
        # The leader answers this; any replica answers a read of the history, also one that lags.
        newest = await bus.last(subjects.OUTPUT, subject)
        lags = newest is not None and read < newest.sequence
    while found.ended and order.next <= stop:
        async for older in _fill_gap(gateway, found, order, stop):
            yield older


async def _fill_gap(gateway: Gateway, found: ExecutionHandle, order: Reorderer, stop: int) -> AsyncIterator[Line]:
    """Fill the first gap of `order`, up to `stop`, from the archive; state what the archive lacks too."""
    end = stop if order.missing is None else min(order.missing, max(stop, order.next - 1))
    async for line in fill_gap(order, archived(gateway.deps.store, found), end):
        yield line


def reorderer(gateway: Gateway, start: int) -> Reorderer:
    """Return a reorderer whose gaps have the gateway's time."""
    return Reorderer(start, gap_lines(gateway.deps.clock.now))
