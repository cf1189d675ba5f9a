"""From the output stream to `output.ndjson.gz`: in order, what is missing stated, memory flat."""

from __future__ import annotations

import asyncio
import gzip
import heapq
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from ocf.events import subjects
from ocf.events.errors import Unavailable
from ocf.events.limits import MIB
from ocf.events.refs import ExecutionRef
from ocf.events.reorder import gap_chunk, line_in
from ocf.functions.runtime.bootstrap import Dependencies

_BLOCK = 1024 * 1024
#: Chunks, and their bytes, that are held for one that has not come.
_HELD = 10_000
_HELD_BYTES = 32 * MIB


@dataclass(frozen=True)
class Written:
    """How many chunks, when the first and the last were said, and how many of them are missing."""

    count: int
    first: str | None
    last: str | None
    missing: int = 0


async def chunks_in_order(
    deps: Dependencies, ref: ExecutionRef, last: int, *, gaps: bool
) -> AsyncIterator[tuple[int, bytes]]:
    """Yield every output chunk by its own sequence, each once: a line, and how many chunks it says are missing.

    A reconnect in mid-run can leave the stream with two chunks swapped or one twice; the sequence tells.

    Args:
        parts: the bus and the clock.
        ref: the execution.
        last: the sequence of its newest chunk.
        gaps: whether what is missing is given up: one line then states a whole gap.

    Raises:
        Unavailable: one is missing (yet), without `gaps`.
    """
    wanted, size = 1, 0
    held: list[tuple[int, bytes]] = []

    def gap(end: int) -> tuple[int, bytes]:
        if not gaps:
            raise Unavailable(f"output chunk {wanted} of {ref} is not in the stream (yet)")
        chunk = gap_chunk(wanted, end, deps.clock.now(), "lost")
        return end - wanted + 1, chunk.model_dump_json(exclude_none=True).encode()

    def ready(*, all_: bool) -> Iterator[tuple[int, bytes]]:
        nonlocal wanted, size
        while held and (all_ or held[0][0] <= wanted or len(held) > _HELD or size > _HELD_BYTES):
            if held[0][0] > wanted:
                yield gap(held[0][0] - 1)
                wanted = held[0][0]
            sequence, data = heapq.heappop(held)
            size -= len(data)
            if sequence == wanted:
                yield 0, data
                wanted += 1

    async for message in deps.bus.history(subjects.OUTPUT, ref.output):
        found = line_in(message)
        if found is None:
            continue  # it is missing, like one that never came
        heapq.heappush(held, found)
        size += len(message.data)
        for line in ready(all_=False):
            yield line
    for line in ready(all_=True):
        yield line
    if wanted <= last:
        yield gap(last)


async def write_output(deps: Dependencies, ref: ExecutionRef, last: int, path: Path, *, gaps: bool = False) -> Written:
    """Write the gzipped NDJSON of all chunks up to `last`; with `gaps` what is missing is stated in it.

    Raises:
        Unavailable: fewer are in the stream, without `gaps`.
    """
    count = missing = 0
    first, newest = b"", b""
    block = bytearray()
    compressing: asyncio.Future[int] | None = None
    # mtime 0: the same output gives the same bytes, and so the same digest.
    with gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) as file:
        try:
            async for left_out, data in chunks_in_order(deps, ref, last, gaps=gaps):
                count += 1
                missing += left_out
                first = first or data
                newest = data
                block += data + b"\n"
                if len(block) >= _BLOCK:
                    # One block is compressed while the next is read.
                    if compressing is not None:
                        await compressing
                    compressing = asyncio.ensure_future(asyncio.to_thread(file.write, block))
                    block = bytearray()
        finally:
            if compressing is not None:
                await compressing  # also after an error: the file must not be closed under it
        await asyncio.to_thread(file.write, block)
    return Written(count, _time(first), _time(newest), missing)


def _time(chunk: bytes) -> str | None:
    return json.loads(chunk).get("timestamp") if chunk else None
