"""Reads an archived output, `output.ndjson.gz`: a line at a time, in memory that does not depend on what is in it."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator

from ocf.events.errors import OcfError
from ocf.events.limits import ARCHIVE, ARCHIVE_LINE, InflateLimit, JsonLimit

#: Inflated at once: a piece of 1 MiB may hold 1 GiB of zeros.
_STEP = 1024 * 1024


class DamagedArchive(OcfError):
    """The archived output cannot be read."""


async def read_lines(
    pieces: AsyncIterator[bytes], *, line: JsonLimit = ARCHIVE_LINE, whole: InflateLimit | None = ARCHIVE
) -> AsyncIterator[bytes]:
    """Yield the lines of an archived output, without their ends.

    Args:
        pieces: the object as it is stored.
        line: of one line, its bytes.
        whole: of all lines, their bytes; None where whoever reads keeps nothing.

    Raises:
        DamagedArchive: it is not gzip, ends in the middle, or is over a limit.
    """
    inflate, rest, total = zlib.decompressobj(wbits=31), b"", 0
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
            *lines, rest = (rest + more).split(b"\n")
            if max(map(len, (*lines, rest))) > line.bytes:
                raise DamagedArchive(f"the archived output has a line of more than {line.bytes} bytes")
            for one in lines:
                yield one
    if not inflate.eof:
        raise DamagedArchive("the archived output ends in the middle")
    if rest:
        yield rest
