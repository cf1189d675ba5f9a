"""Limits on what others send, checked before it is parsed, inflated or stored.

An agent, a tenant, an endpoint, a repository or a backend may send anything. A parser's cost in memory and time follows
from the number of values and the depth of their nesting, not from the number of bytes alone: 45 MB of `[],[],...` are
15 million lists and 1.2 GiB. So JSON is measured first, at the speed of a byte search, and then parsed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from events.errors import InvalidEvent

KIB, MIB = 1024, 1024 * 1024


class OverLimit(InvalidEvent):
    """The input is over a limit."""


class InvalidJson(InvalidEvent):
    """The input is not valid JSON."""


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
#: A request of an agent to a model: a conversation, whose texts are what is long.
MODEL_REQUEST = JsonLimit(bytes=64 * MIB, depth=100, values=1_000_000)
#: One event of a model's answer, or the whole answer where it does not stream.
MODEL_ANSWER = JsonLimit(bytes=16 * MIB, depth=64, values=200_000)
#: One answer or event of OpenCode, which repeats what the agent wrote.
AGENT_MESSAGE = JsonLimit(bytes=32 * MIB, depth=100, values=500_000)
#: Messages, parts, tools or steps of one run: a part a second for five days. Each costs the worker about 500 bytes.
AGENT_PARTS = 500_000
#: Characters of text whose message OpenCode has not named yet; it names it with the event before.
AGENT_UNSAID = 32 * MIB
#: An archived output, line by line; the whole of it inflated.
ARCHIVE_LINE = JsonLimit(bytes=MIB, depth=64, values=50_000)
ARCHIVE = InflateLimit(bytes=1024 * MIB, ratio=200)

_STRING = re.compile(rb'"[^"]*"')
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def check_json(data: bytes, limit: JsonLimit, what: str = "data") -> None:
    """Measure a JSON text without parsing it. It need not be valid.

    Args:
        data: UTF-8.
        limit: what it may be.
        what: the field's name in the error.

    Raises:
        OverLimit: it is longer, deeper or has more values than `limit`; names the limit.
    """
    if len(data) > limit.bytes:
        raise OverLimit(f"{what}: {len(data)} bytes; at most {limit.bytes}")
    opened = data.count(b"[") + data.count(b"{")
    members = data.count(b",") + opened
    if opened <= limit.depth and members <= limit.values:
        return
    # Brackets and commas within texts do not count. Without its escapes a text ends at the next quote.
    bare = _STRING.sub(b"", data.replace(b"\\\\", b"").replace(b'\\"', b""))
    members = bare.count(b",") + bare.count(b"[") + bare.count(b"{")
    if members > limit.values:
        raise OverLimit(f"{what}: {members} values; at most {limit.values}")
    _check_depth(bare.translate(_BRACKETS, _NO_BRACKETS), limit.depth, what)


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


def _no_constant(name: str) -> float:
    """Refuse NaN and infinities: RFC 8259 has none, and no other reader would take what we write of them."""
    raise InvalidJson(f"not valid JSON: {name}")
