"""From the output stream to `output.ndjson.gz`: in order, gapless, memory flat."""

from __future__ import annotations

import asyncio
import gzip
import heapq
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from events import subjects
from events.errors import Unavailable
from events.splice import sequence_of
from functions.composition import Parts

_BLOCK = 1024 * 1024
_HELD = 10_000


@dataclass(frozen=True)
class Written:
    """How many chunks, and when the first and the last were said."""

    count: int
    first: str | None
    last: str | None


async def in_order(parts: Parts, project: str, execution: str) -> AsyncIterator[bytes]:
    """The data of every output chunk by its own sequence, each once.

    A reconnect in mid-run can leave the stream with two chunks swapped or one twice; the sequence tells.

    Raises:
        Unavailable: one is missing (yet).
    """
    wanted = 1
    held: list[tuple[int, bytes]] = []
    async for message in parts.bus.history(subjects.OUTPUT, subjects.output(project, execution)):
        sequence = sequence_of(message)
        heapq.heappush(held, (sequence, message.data))
        while held and held[0][0] <= wanted:
            sequence, data = heapq.heappop(held)
            if sequence == wanted:
                yield data
                wanted += 1
        if len(held) > _HELD:
            break
    if held:
        raise Unavailable(f"output chunk {wanted} of {execution} is not in the stream (yet)")


async def write_output(parts: Parts, project: str, execution: str, expected: int, path: Path) -> Written:
    """Write the gzipped NDJSON of all `expected` chunks.

    Raises:
        Unavailable: fewer are in the stream.
    """
    count, first, last = 0, b"", b""
    block = bytearray()
    compressing: asyncio.Future[int] | None = None
    # mtime 0: the same output gives the same bytes, and so the same digest.
    with gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) as file:
        try:
            async for data in in_order(parts, project, execution):
                count += 1
                first = first or data
                last = data
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
    if count < expected:
        raise Unavailable(f"{count} of {expected} output chunks of {execution} are in the stream")
    return Written(count, _time(first), _time(last))


def _time(chunk: bytes) -> str | None:
    return json.loads(chunk).get("timestamp") if chunk else None
