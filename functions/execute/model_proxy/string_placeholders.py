"""A request without its long texts, which are most of it.

A conversation is megabytes of texts and images around a small structure. The long texts are taken out (`Elided`), the
rest is parsed, checked and changed, and the texts are put back unchanged. So the request is in memory twice at most, a
character outside Latin-1 does not make four bytes of each byte, and nothing blocks the event loop for long.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from dataclasses import dataclass, field

from ocf.events import untrusted_json
from ocf.events.untrusted_json import OverLimit

_LENGTH = 512
#: Starts outside a string: matches up to the quote of the next long string, behind any number of short ones.
_LONG = re.compile(rb'(?:[^"]*+"[^"]{0,511}+")*+[^"]*+"(?=[^"]{512})')
_SLICE = 4 * untrusted_json.MIB
SHORT = "the request without its long texts"


class BadRequest(ValueError):
    """The agent sent something that is not a model request, or one that may not pass."""


@dataclass
class Elided:
    """A JSON text without its long strings.

    `skeleton` has `"mark:N"` in place of the Nth long string, which is `source[start:end]` with its quotes.
    """

    source: bytearray = field(repr=False)
    skeleton: bytes = field(repr=False)
    mark: str
    spans: list[tuple[int, int]] = field(repr=False)

    def head(self, text: str) -> bytes:
        """Return the first bytes of a string of the skeleton, as received."""
        if not text.startswith(self.mark):
            return text[:64].encode("utf-8", "replace")
        start, _ = self.spans[int(text[len(self.mark) :])]
        return bytes(self.source[start + 1 : start + 65])

    def size(self, text: str) -> int:
        """Return the length of a string in bytes."""
        if not text.startswith(self.mark):
            return len(text)
        start, end = self.spans[int(text[len(self.mark) :])]
        return end - start

    def put_back(self, body: object) -> bytes:
        """Return `body` as JSON, with the long strings as received.

        Raises:
            BadRequest: it has a number that JSON cannot hold.
        """
        try:
            text = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        except ValueError:
            raise BadRequest("the request body has a number that is too large") from None
        first, *marked = text.split(b'"' + self.mark.encode())
        parts: list[bytes | memoryview] = [first]
        view = memoryview(self.source)
        for piece in marked:
            number, _, after = piece.partition(b'"')
            start, end = self.spans[int(number)]
            parts += (view[start:end], after)
        return b"".join(parts)


async def elide(source: bytearray) -> Elided:
    """Take out the long strings of a request, yielding to the event loop in between.

    Raises:
        OverLimit: it exceeds `limits.MODEL_REQUEST`, or `limits.MODEL_SKELETON` without its long strings.
    """
    limit = untrusted_json.MODEL_REQUEST
    if len(source) > limit.bytes:
        raise OverLimit(f"the request: {len(source)} bytes; at most {limit.bytes}")
    # A copy of the same length without escapes: a string ends at the next quote.
    plain = bytearray()
    while len(plain) < len(source):
        piece = bytes(source[len(plain) : len(plain) + _SLICE])
        if piece.endswith(b"\\") and (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            piece += bytes(source[len(plain) + len(piece) : len(plain) + len(piece) + 1])
        plain += piece if b"\\" not in piece else piece.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        await asyncio.sleep(0)
    # Every string is a value or a key, and each value has at most one key.
    if (strings := plain.count(b'"') // 2) > 2 * limit.values:
        raise OverLimit(f"the request: {strings} strings; at most {2 * limit.values}")
    # The request's author cannot guess it.
    mark = f"{secrets.token_hex(16)}:"
    spans: list[tuple[int, int]] = []
    skeleton = bytearray()
    done = 0
    yielded_at = 0
    while found := _LONG.match(plain, done):
        if done - yielded_at > _SLICE:
            await asyncio.sleep(0)
            yielded_at = done
        start = found.end() - 1
        # Much faster than a pattern, which looks at each byte of megabytes.
        end = plain.find(b'"', start + 1 + _LENGTH) + 1
        if not end:
            break
        skeleton += source[done:start]
        skeleton += b'"%s%d"' % (mark.encode(), len(spans))
        spans.append((start, end))
        done = end
    untrusted_json.check_size(len(skeleton) + len(source) - done, untrusted_json.MODEL_SKELETON, SHORT)
    skeleton += source[done:]
    return Elided(source, bytes(skeleton), mark, spans)
