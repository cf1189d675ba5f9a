"""Limits on untrusted input, checked before it is parsed, inflated or stored.

Agents, tenants, endpoints, repositories and backends may send anything. A parser's memory and time depend on the number
of values and their nesting, not only on the number of bytes: 45 MB of `[],[],...` become 15 million lists and 1.2 GiB.
JSON is therefore measured first, at the speed of a byte search, and then parsed.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from ocf.events.errors import InvalidEvent
from ocf.events.prompt_injection_marks import unmarked

KIB, MIB = 1024, 1024 * 1024


class OverLimit(InvalidEvent):
    """The input exceeds a limit."""


class InvalidJson(InvalidEvent):
    """The input is not valid JSON."""


class InvalidCompression(InvalidEvent):
    """The input is not compressed as declared."""


@dataclass(frozen=True)
class JsonLimit:
    """Limits of one JSON text.

    Args:
        bytes: Length of the text.
        depth: Nesting of arrays and objects.
        values: Arrays, objects and their members, counted together.
    """

    bytes: int
    depth: int
    values: int


@dataclass(frozen=True)
class InflateLimit:
    """Limits of decompression.

    Args:
        bytes: Length of the result.
        ratio: Length of the result divided by the length of the input.
        slack: Bytes of the result that are allowed regardless of the ratio.
    """

    bytes: int
    ratio: int
    slack: int = MIB


#: An event on the bus or over HTTP, after its dataref is resolved.
EVENT = JsonLimit(bytes=16 * MIB, depth=64, values=200_000)
#: Body of an HTTP request that becomes an event; its texts may be longer there because of escapes.
REQUEST = JsonLimit(bytes=17 * MIB, depth=62, values=199_000)
#: An event of another system, on the subject of its project. It is one NATS message.
INBOX = JsonLimit(bytes=768 * KIB, depth=40, values=50_000)
#: A free-form value of the caller within an event.
FREE_VALUE = JsonLimit(bytes=8 * MIB, depth=32, values=100_000)
#: A JSON Schema for the result of a task.
OUTPUT_SCHEMA = JsonLimit(bytes=64 * KIB, depth=24, values=4_000)
#: The result that fits it; the terminal fact carries it whole.
OUTPUT = JsonLimit(bytes=96 * KIB, depth=30, values=20_000)
#: A request of an agent to a model: a million tokens are 4 MB of text; providers accept up to 50 MB with images.
MODEL_REQUEST = JsonLimit(bytes=64 * MIB, depth=100, values=150_000)
#: Such a request without its long texts: 10,000 messages and their tools are 4 MB and 100,000 values, parsed in 0.1 s.
MODEL_SKELETON = JsonLimit(bytes=8 * MIB, depth=100, values=150_000)
#: Bytes of all concurrent model requests of one execution in memory: one of maximum size, and those of subagents.
MODEL_REQUESTS = 96 * MIB
#: Concurrent model requests of one execution: each subagent has one.
MODEL_CALLS = 32
#: Tokens of an answer if the request has no limit: OpenCode's own default.
MODEL_OUTPUT_TOKENS = 32_000
#: One event of a model's answer, or the whole answer without streaming.
MODEL_ANSWER = JsonLimit(bytes=16 * MIB, depth=64, values=200_000)
#: An answer of an endpoint that compresses against the request. The ratio is high, because stream events are similar.
MODEL_INFLATED = InflateLimit(bytes=256 * MIB, ratio=200)
#: The part that is read of a model endpoint's error response; providers send one sentence.
MODEL_ERROR = JsonLimit(bytes=64 * KIB, depth=32, values=2_000)
#: One response or event of OpenCode, which may contain everything that the agent wrote.
AGENT_MESSAGE = JsonLimit(bytes=32 * MIB, depth=100, values=500_000)
#: Events of OpenCode in the queue; further events wait in the socket's buffer, which is smaller.
AGENT_INBOX = 8
#: Bytes that are read of OpenCode's error response; its first 300 characters are shown.
AGENT_ERROR = 64 * KIB
#: The part that is read of a conversation, latest messages first. Commas and brackets within texts count as values.
AGENT_CONVERSATION = JsonLimit(bytes=64 * MIB, depth=100, values=3_000_000)
#: A conversation in its stored form: non-ASCII characters take up to three times the bytes, nesting two more levels.
STORED_CONVERSATION = JsonLimit(bytes=256 * MIB, depth=104, values=3_200_000)
#: Pages of a conversation, of up to 64 messages each: 65,536 messages in all.
AGENT_PAGES = 1024
#: OpenCode sessions of one execution, one per subagent: one a minute for a week.
AGENT_SESSIONS = 10_000
#: Messages, parts, tools or steps of one execution: one a second for five days. Each costs about 500 bytes of memory.
AGENT_PARTS = 500_000
#: Characters of an OpenCode id; real ids have 30.
AGENT_ID = 128
#: Characters of buffered text without a known message; OpenCode normally announces the message one event earlier.
AGENT_UNATTRIBUTED = 32 * MIB
#: An archived output: one line, and the whole of it inflated.
ARCHIVE_LINE = JsonLimit(bytes=MIB, depth=64, values=50_000)
ARCHIVE = InflateLimit(bytes=1024 * MIB, ratio=1_100)  # the maximum of gzip itself is 1,032

#: One NATS message, headers included (`max_payload` of nats-server, `max_msg_size` of the streams).
MESSAGE_BYTES = MIB
#: A record in its bucket; the rest of the message is for headers.
RECORD_BYTES = MESSAGE_BYTES - 32 * KIB

_MARK = "… (shortened; {} bytes in all)"
_TITLE = 120
_MARK_BYTES = 64

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def check_size(size: int, limit: JsonLimit | InflateLimit, what: str = "data") -> None:
    """Raise OverLimit if `size` is more than `limit.bytes`."""
    if size > limit.bytes:
        raise OverLimit(f"{what}: {size} bytes; at most {limit.bytes}")


def check_json(data: bytes, limit: JsonLimit, what: str = "data") -> None:
    """Measure a JSON text, valid or not, without parsing it.

    Args:
        data: The text in UTF-8.
        limit: The limits to check.
        what: Name of the field in the error.

    Raises:
        OverLimit: The text is longer, deeper or has more values than allowed; names the limit.
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
    """Return `data` without its strings, whose brackets and commas do not count.

    Escapes are removed first, so that a string ends at the next quote.
    """
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    quotes = plain.count(b'"')
    # A member has at most two strings, its name and its value. Removing millions of them would take seconds.
    if quotes > 4 * limit.values + 2:
        raise OverLimit(f"{what}: {quotes // 2} texts; at most {2 * limit.values}")
    return b"".join(plain.split(b'"')[::2]) if quotes else plain


def _check_depth(brackets: bytes, depth: int, what: str) -> None:
    """Raise OverLimit if `[` and `]` are nested deeper than `depth`. Each round removes the innermost level."""
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
        data: The text in UTF-8; other encodings are rejected.
        limit: The limits to check.
        what: Name of the field in the error.

    Returns:
        The value. Its strings may contain lone surrogates, which UTF-8 cannot encode; the caller decides on them.

    Raises:
        OverLimit: The text exceeds `limit`.
        InvalidJson: The text is not valid JSON. The message never quotes the input.
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
        # The only other ValueError is an integer of more than 4,300 digits (CVE-2020-10735).
        raise InvalidJson(f"{what}: not valid JSON: a number is too long") from None


def text_member(data: bytes, name: str) -> str | None:
    """Return the text that an event's data has as `name`; None if it has none, or is not an object within `EVENT`."""
    if name.encode() not in data:
        return None
    try:
        found = parse_json(data, EVENT)
    except InvalidEvent:
        return None
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, str) else None


def check_value(value: object, limit: JsonLimit) -> None:
    """Check depth and number of values of a parsed JSON value; `limit.bytes` does not apply.

    Raises:
        ValueError: The value exceeds `limit`; names the limit.
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
    """Refuse NaN and infinities, which RFC 8259 does not have and other parsers would refuse."""
    raise InvalidJson(f"not valid JSON: {name}")


class Inflater:
    """Incremental decompression of one gzip or zlib stream (RFC 1952, 1950) within a limit."""

    _PIECE = 64 * KIB

    def __init__(self, limit: InflateLimit, what: str = "data") -> None:
        self._limit, self._what = limit, what
        self._zlib = zlib.decompressobj(wbits=47)  # detects gzip or zlib by the header
        self._in = self._out = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the result of the compressed bytes `data`, in pieces of at most 64 KiB.

        Raises:
            OverLimit: The result exceeds the limit; the check follows each piece of 64 KiB.
            InvalidCompression: The data is neither gzip nor zlib.
        """
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
    """Return the bytes of `text` as a JSON string, with escapes and without the quotes."""
    return len(to_json(text, inf_nan_mode="null")) - 2


def first_line(text: str) -> str:
    """Return the first line of a prompt as a title: at most 120 characters, empty for a blank text."""
    text = unmarked(text).strip()
    line = text.splitlines()[0] if text else ""
    return line if len(line) <= _TITLE else line[: _TITLE - 1] + "…"


def shorten(text: str, limit: int) -> str:
    """Cut `text` at a character border to at most `limit` bytes of JSON, and append a mark.

    Args:
        text: A text without lone surrogates.
        limit: Bytes including the mark; below the mark's own 64 bytes the result is empty.
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
