"""Limits on what others send, checked before it is parsed, inflated or stored.

An agent, a tenant, an endpoint, a repository or a backend may send anything. A parser's cost in memory and time follows
from the number of values and the depth of their nesting, not from the number of bytes alone: 45 MB of `[],[],...` are
15 million lists and 1.2 GiB. So JSON is measured first, at the speed of a byte search, and then parsed.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from ocf.events.errors import InvalidEvent

KIB, MIB = 1024, 1024 * 1024


class OverLimit(InvalidEvent):
    """The input is over a limit."""


class InvalidJson(InvalidEvent):
    """The input is not valid JSON."""


class InvalidCompression(InvalidEvent):
    """The input is not compressed as it says."""


@dataclass(frozen=True)
class JsonLimit:
    """What one JSON text may be.

    Args:
        bytes: length of the text.
        depth: nesting of arrays and objects.
        values: arrays, objects and their members, counted together.
    """

    bytes: int
    depth: int
    values: int


@dataclass(frozen=True)
class InflateLimit:
    """What compressed input may become.

    Args:
        bytes: length of the result.
        ratio: length of the result divided by that of the input; `slack` bytes are allowed whatever the ratio.
    """

    bytes: int
    ratio: int
    slack: int = MIB


#: An event on the bus or over HTTP, its dataref resolved.
EVENT = JsonLimit(bytes=16 * MIB, depth=64, values=200_000)
#: A body of an HTTP request: what may become an event, its texts perhaps in escapes.
REQUEST = JsonLimit(bytes=17 * MIB, depth=62, values=199_000)
#: A value that a caller passes on as it is, within an event.
FREE_VALUE = JsonLimit(bytes=8 * MIB, depth=32, values=100_000)
#: A request of an agent to a model: a million tokens are 4 MB of text, and providers take up to 50 MB with the images.
MODEL_REQUEST = JsonLimit(bytes=64 * MIB, depth=100, values=150_000)
#: The same without its long texts: 10,000 messages and their tools are 4 MB and 100,000 values, parsed in 0.1 s.
MODEL_SKELETON = JsonLimit(bytes=8 * MIB, depth=100, values=150_000)
#: Bytes of such requests that one execution may have in memory at once: the largest, and its subagents' beside it.
MODEL_REQUESTS = 96 * MIB
#: Requests of one execution at once: each subagent has one.
MODEL_CALLS = 32
#: Tokens an answer may have where the request names no bound: what OpenCode asks for.
MODEL_OUTPUT_TOKENS = 32_000
#: One event of a model's answer, or the whole answer where it does not stream.
MODEL_ANSWER = JsonLimit(bytes=16 * MIB, depth=64, values=200_000)
#: The same, of an endpoint that compresses although it is asked not to. A stream repeats itself with each event.
MODEL_INFLATED = InflateLimit(bytes=256 * MIB, ratio=200)
#: What is read of the error that a model endpoint answers with: providers say a sentence.
MODEL_ERROR = JsonLimit(bytes=64 * KIB, depth=32, values=2_000)
#: One answer or event of OpenCode, which repeats what the agent wrote.
AGENT_MESSAGE = JsonLimit(bytes=32 * MIB, depth=100, values=500_000)
#: Events of OpenCode that wait to be read; more wait in its socket, which holds less than these could.
AGENT_INBOX = 8
#: What is read of the error that OpenCode answers with; its first 300 characters are shown.
AGENT_ERROR = 64 * KIB
#: What is read of a conversation, its newest messages first. Commas and brackets within texts count as values here.
AGENT_CONVERSATION = JsonLimit(bytes=64 * MIB, depth=100, values=3_000_000)
#: A conversation as it is stored: letters beyond ASCII take up to three times their bytes there, and two levels more.
STORED_CONVERSATION = JsonLimit(bytes=256 * MIB, depth=104, values=3_200_000)
#: Pages of it, of up to 64 messages: 65,536 messages in all.
AGENT_PAGES = 1024
#: Sessions of one run, each a subagent's: one a minute for a week.
AGENT_SESSIONS = 10_000
#: Messages, parts, tools or steps of one run: a part a second for five days. Each costs the worker about 500 bytes.
AGENT_PARTS = 500_000
#: Characters of an id of OpenCode's, which has 30.
AGENT_ID = 128
#: Characters of text whose message OpenCode has not named yet; it names it with the event before.
AGENT_UNSAID = 32 * MIB
#: An archived output, line by line; the whole of it inflated.
ARCHIVE_LINE = JsonLimit(bytes=MIB, depth=64, values=50_000)
ARCHIVE = InflateLimit(bytes=1024 * MIB, ratio=1_100)  # gzip itself makes at most 1,032 bytes of one

#: One NATS message, headers included (`max_payload` of nats-server, `max_msg_size` of the streams).
MESSAGE_BYTES = MIB
#: A record in its bucket, as it is written; the rest of the message is for headers.
RECORD_BYTES = MESSAGE_BYTES - 32 * KIB

_MARK = "… (shortened; {} bytes in all)"
_MARK_BYTES = 64

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def check_size(size: int, limit: JsonLimit | InflateLimit, what: str = "data") -> None:
    """Raises OverLimit: it is longer than `limit`."""
    if size > limit.bytes:
        raise OverLimit(f"{what}: {size} bytes; at most {limit.bytes}")


def check_json(data: bytes, limit: JsonLimit, what: str = "data") -> None:
    """Measure a JSON text without parsing it. It need not be valid.

    Args:
        data: UTF-8.
        limit: what it may be.
        what: the field's name in the error.

    Raises:
        OverLimit: it is longer, deeper or has more values than `limit`; names the limit.
    """
    check_size(len(data), limit, what)
    opened = data.count(b"[") + data.count(b"{")
    members = data.count(b",") + opened
    if opened <= limit.depth and members <= limit.values:
        return
    bare = _without_texts(data, limit, what)
    if bare is not data:
        members = bare.count(b",") + bare.count(b"[") + bare.count(b"{")
    if members > limit.values:
        raise OverLimit(f"{what}: {members} values; at most {limit.values}")
    _check_depth(bare.translate(_BRACKETS, _NO_BRACKETS), limit.depth, what)


def _without_texts(data: bytes, limit: JsonLimit, what: str) -> bytes:
    """Without its texts, whose brackets and commas do not count. Free of escapes, a text ends at the next quote."""
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    quotes = plain.count(b'"')
    # A member has at most two texts, its name and its value. Taking out millions of them would cost seconds.
    if quotes > 4 * limit.values + 2:
        raise OverLimit(f"{what}: {quotes // 2} texts; at most {2 * limit.values}")
    return b"".join(plain.split(b'"')[::2]) if quotes else plain


def _check_depth(brackets: bytes, depth: int, what: str) -> None:
    """Raise OverLimit where `[` and `]` are nested deeper than `depth`; each round removes the innermost level."""
    for _ in range(depth):
        shorter = brackets.replace(b"[]", b"")
        if len(shorter) == len(brackets):
            break
        brackets = shorter
    if b"[]" in brackets or brackets.count(b"[") > depth:
        raise OverLimit(f"{what}: nested deeper than {depth}")


def parse_json(data: bytes, limit: JsonLimit, what: str = "data") -> Any:  # noqa: ANN401 - any JSON value
    """Parse a JSON text within `limit`.

    Args:
        data: UTF-8; no other encoding of Unicode is tried.
        limit: what it may be.
        what: the field's name in the error.

    Returns:
        The value. A text in it may hold a lone surrogate, which no UTF-8 can: the model of the data decides on that.

    Raises:
        OverLimit: it is over `limit`.
        InvalidJson: it is not valid JSON. The message never quotes the input.
    """
    check_json(data, limit, what)
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise InvalidJson(f"{what}: not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise InvalidJson(f"{what}: not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except InvalidJson as error:
        raise InvalidJson(f"{what}: {error}") from None
    except (RecursionError, ValueError):
        # An integer of more than 4,300 digits (CVE-2020-10735) is the only other ValueError.
        raise InvalidJson(f"{what}: not valid JSON: a number is too long") from None


def check_value(value: object, limit: JsonLimit) -> None:
    """Measure a parsed JSON value: its depth and number of values; `limit.bytes` is for the text it came from.

    Raises:
        ValueError: it is over `limit`; says which.
    """
    level, values = [value], 0
    for _ in range(limit.depth + 1):
        values += len(level)
        if values > limit.values:
            raise ValueError(f"more than {limit.values} values")
        level = [
            item
            for one in level
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise ValueError(f"nested deeper than {limit.depth}")


def _no_constant(name: str) -> float:
    """Refuse NaN and infinities: RFC 8259 has none, and no other reader would take what we write of them."""
    raise InvalidJson(f"not valid JSON: {name}")


class Inflater:
    """Inflates one gzip or zlib stream (RFC 1952, 1950) piece by piece, within a limit.

    Raises:
        OverLimit: from `feed`: it becomes more than `limit`; at most 64 KiB more are in memory by then.
        InvalidCompression: from `feed`: it is not compressed that way.
    """

    _PIECE = 64 * KIB

    def __init__(self, limit: InflateLimit, what: str = "data") -> None:
        self._limit, self._what = limit, what
        self._zlib = zlib.decompressobj(wbits=47)  # either of the two, by its head
        self._in = self._out = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` adds, in pieces of at most 64 KiB."""
        self._in += len(data)
        limit = self._limit
        while data:
            try:
                piece = self._zlib.decompress(data, self._PIECE)
            except zlib.error:
                raise InvalidCompression(f"{self._what}: not valid gzip or zlib data") from None
            data = self._zlib.unconsumed_tail
            self._out += len(piece)
            check_size(self._out, limit, f"{self._what}, inflated")
            if self._out > limit.slack and self._out > limit.ratio * self._in:
                raise OverLimit(f"{self._what}: becomes more than {limit.ratio} times as long, and {limit.slack} bytes")
            if piece:
                yield piece


def json_size(text: str) -> int:
    """Return the bytes that `text` takes within a JSON text, its escapes included and its quotes not."""
    return len(to_json(text, inf_nan_mode="null")) - 2


def shorten(text: str, limit: int) -> str:
    """Cut `text` at a character border so that it takes at most `limit` bytes of JSON, and say so in it.

    Args:
        text: no lone surrogates in it.
        limit: bytes, the mark included; below the mark's own 64 bytes nothing is left.
    """
    if len(text) * 6 <= limit or json_size(text) <= limit:
        return text
    if limit < _MARK_BYTES:
        return ""
    low, high = 0, min(len(text), limit)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if json_size(text[:middle]) <= limit - _MARK_BYTES else (low, middle - 1)
    return text[:low] + _MARK.format(len(text.encode()))
