"""Writing of `output.ndjson.gz` from the output stream: in order, with gaps reported, with constant memory."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from ocf.events import subjects
from ocf.events.errors import Unavailable
from ocf.events.execution_ref import ExecutionRef
from ocf.events.ports import Bus, Clock
from ocf.events.reorder import Line, Reason, Reorderer, gap_lines, line_in
from ocf.events.untrusted_json import MIB

_BLOCK = 1024 * 1024
#: Maximum of chunks and bytes in memory that wait for a missing chunk.
_HELD = 10_000
_HELD_BYTES = 32 * MIB


@dataclass(frozen=True)
class Written:
    """Number of lines, times of the first and last chunk, and number of missing chunks."""

    count: int
    first: str | None
    last: str | None
    missing: int = 0


async def chunks_in_order(bus: Bus, clock: Clock, ref: ExecutionRef, last: int, *, gaps: bool) -> AsyncIterator[Line]:
    """Yield every output chunk once, in the order of its sequence.

    A reconnect of the worker may leave the stream with swapped or duplicate chunks.

    Args:
        bus: The bus.
        clock: The clock.
        ref: The execution.
        last: Last sequence of the output.
        gaps: Report missing chunks by one line per gap, instead of raising Unavailable.

    Raises:
        Unavailable: A chunk is missing, and `gaps` is False; or a replica that lags was read, which would make gaps.
    """
    newest = await bus.last(subjects.OUTPUT, ref.output) if gaps else None
    read = 0
    make = gap_lines(clock.now)

    def gap(first: int, end: int, reason: Reason) -> Line:
        if not gaps:
            raise Unavailable(f"output chunk {first} of {ref} is not in the stream (yet)")
        return make(first, end, reason)

    order = Reorderer(1, gap, held=_HELD, held_bytes=_HELD_BYTES)
    async for message in bus.history(subjects.OUTPUT, ref.output):
        found, read = line_in(message), message.sequence
        if found is None:
            continue  # counts as missing
        for line in order.feed(found):
            yield line
        while order.full:
            for line in order.skip():
                yield line
    if newest is not None and read < newest.sequence:
        raise Unavailable(f"output of {ref} cannot be read to its end yet")
    for line in order.finish(last):
        yield line


async def write_output(
    bus: Bus, clock: Clock, ref: ExecutionRef, last: int, path: Path, *, gaps: bool = False
) -> Written:
    """Write all chunks up to `last` as gzipped NDJSON; with `gaps`, report missing chunks in it.

    Raises:
        Unavailable: A chunk is missing, and `gaps` is False.
    """
    count = missing = 0
    first, newest = b"", b""
    block = bytearray()
    compressing: asyncio.Future[int] | None = None
    # With mtime 0, the same output gives the same bytes and digest.
    with gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) as file:
        try:
            async for line in chunks_in_order(bus, clock, ref, last, gaps=gaps):
                count += 1
                missing += line.last - line.seq + 1 if line.gap else 0
                first = first or line.data
                newest = line.data
                block += line.data + b"\n"
                if len(block) >= _BLOCK:
                    # Compress one block while the next is read.
                    if compressing is not None:
                        await compressing
                    compressing = asyncio.ensure_future(asyncio.to_thread(file.write, block))
                    block = bytearray()
        finally:
            if compressing is not None:
                await compressing  # also after an error, before the file is closed
        await asyncio.to_thread(file.write, block)
    return Written(count, _time(first), _time(newest), missing)


def _time(chunk: bytes) -> str | None:
    return json.loads(chunk).get("timestamp") if chunk else None
