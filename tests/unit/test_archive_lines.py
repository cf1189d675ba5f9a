"""Reading an archived output in bounded memory."""

from __future__ import annotations

import gzip
import os
from collections.abc import AsyncIterator

import pytest

from ocf.events.gzip_ndjson import DamagedArchive, read_lines
from ocf.events.untrusted_json import InflateLimit, JsonLimit

LINE, WHOLE = JsonLimit(bytes=1_000, depth=9, values=9), InflateLimit(bytes=10_000, ratio=9)


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read(data: bytes, size: int = 100, whole: InflateLimit | None = WHOLE) -> list[bytes]:
    return [line async for line in read_lines(pieces(data, size), line=LINE, whole=whole)]


@pytest.mark.parametrize("size", [1, 7, 4_096])
async def test_lines_come_as_they_were_written(size: int) -> None:
    """However the object comes in pieces, and whether the last line has an end or not."""
    lines = [os.urandom(50).hex().encode() for _ in range(20)]
    for end in (b"", b"\n"):
        assert await read(gzip.compress(b"\n".join(lines) + end), size) == lines


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (bytes(9_000), "a line of more than 1000 bytes"),
        (b"x" * 1_001 + b"\n", "a line of more than 1000 bytes"),
        (b"x\n" * 5_001, "more than 10000 bytes"),
    ],
)
async def test_line_over_a_limit_is_refused(content: bytes, said: str) -> None:
    """A line, and all of them."""
    with pytest.raises(DamagedArchive, match=said):
        await read(gzip.compress(content))


async def test_reader_that_keeps_nothing_needs_no_total_limit() -> None:
    """Lines are passed on one by one."""
    assert len(await read(gzip.compress(b"x\n" * 50_000), whole=None)) == 50_000


@pytest.mark.parametrize("data", [b"", b"hello", gzip.compress(b"x\n" * 9)[:-9]], ids=["empty", "no gzip", "cut off"])
async def test_damaged_archive_is_a_clear_error(data: bytes) -> None:
    """Never a part as if it were all."""
    with pytest.raises(DamagedArchive):
        await read(data)
