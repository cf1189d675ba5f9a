"""Reader of an archived output, `output.ndjson.gz`: line by line, with bounded memory for any content."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator

from ocf.events.errors import OcfError
from ocf.events.untrusted_json import ARCHIVE, ARCHIVE_LINE, InflateLimit, JsonLimit

#: Bytes inflated per step: a piece of 1 MiB may inflate to 1 GiB of zeros.
_STEP = 1024 * 1024


class DamagedArchive(OcfError):
    """The archived output cannot be read."""


async def read_lines(
    pieces: AsyncIterator[bytes], *, line: JsonLimit = ARCHIVE_LINE, whole: InflateLimit | None = ARCHIVE
) -> AsyncIterator[bytes]:
    """Yield the lines of an archived output, without line ends.

    Args:
        pieces: The stored object.
        line: Limit of one line; only its `bytes` apply.
        whole: Limit of all lines together; only its `bytes` apply. None for a caller that keeps no lines in memory.

    Raises:
        DamagedArchive: The object is not gzip, is truncated, or exceeds a limit.
    """
    async for one in split_lines(_inflated(pieces, whole), line):
        yield one


async def split_lines(pieces: AsyncIterator[bytes], line: JsonLimit = ARCHIVE_LINE) -> AsyncIterator[bytes]:
    """Yield the lines of an output, without line ends.

    Args:
        pieces: The text.
        line: Limit of one line; only its `bytes` apply.

    Raises:
        DamagedArchive: A line exceeds the limit.
    """
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        if max(map(len, (*lines, rest))) > line.bytes:
            raise DamagedArchive(f"the archived output has a line of more than {line.bytes} bytes")
        for one in lines:
            yield one
    if rest:
        yield rest


async def _inflated(pieces: AsyncIterator[bytes], whole: InflateLimit | None) -> AsyncIterator[bytes]:
    inflate, total = zlib.decompressobj(wbits=31), 0
    async for piece in pieces:
        while piece:
            try:
                more = inflate.decompress(piece, _STEP)
            except zlib.error as error:
                raise DamagedArchive(f"the archived output cannot be unpacked: {error}") from None
            piece = inflate.unconsumed_tail
            total += len(more)
            if whole is not None and total > whole.bytes:
                raise DamagedArchive(f"the archived output has more than {whole.bytes} bytes")
            yield more
    if not inflate.eof:
        raise DamagedArchive("the archived output ends in the middle")
