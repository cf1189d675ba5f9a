"""JSON from outside is measured before it is parsed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocf.events.untrusted_json import InvalidJson, JsonLimit, OverLimit, check_json, parse_json

SMALL = JsonLimit(bytes=100_000, depth=5, values=50)
DEEP = JsonLimit(bytes=100_000, depth=5, values=50_000)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=30,
)


def depth_of(value: Any) -> int:
    if not isinstance(value, (list, dict)):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth_of, inner), default=0)


@given(_JSON, st.integers(1, 6))
def test_depth_is_measured_exactly(value: Any, depth: int) -> None:
    """A text is refused exactly when its value is nested deeper than the limit, whatever its strings hold."""
    data = json.dumps(value, ensure_ascii=False).encode()
    limit = JsonLimit(bytes=100_000, depth=depth, values=1_000)
    if depth_of(value) > depth:
        with pytest.raises(OverLimit, match="nested deeper"):
            check_json(data, limit)
    else:
        assert parse_json(data, limit) == value


def test_brackets_and_commas_within_texts_do_not_count() -> None:
    """A text full of brackets, quotes and backslashes is one value."""
    value = {"prompt": '[[[[{{{{,,,"\\' * 1_000}
    assert parse_json(json.dumps(value).encode(), SMALL) == value


@pytest.mark.parametrize(
    ("data", "limit", "said"),
    [
        (b"[" * 20_000 + b"]" * 20_000, DEEP, "data: nested deeper than 5"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, DEEP, "data: nested deeper than 5"),
        (b"[" * 20_000, DEEP, "data: nested deeper than 5"),
        (b"[" + b"[]," * 51 + b"[]]", SMALL, "data: 104 values; at most 50"),
        (b" " * 100_001, SMALL, "data: 100001 bytes; at most 100000"),
    ],
    ids=["arrays", "objects", "unclosed", "wide", "long"],
)
def test_error_names_the_exceeded_limit(data: bytes, limit: JsonLimit, said: str) -> None:
    """The error says which limit and does not quote the input."""
    with pytest.raises(OverLimit) as error:
        parse_json(data, limit)
    assert str(error.value) == said


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b'{"a"}',
        b"\xff\xfe[\x00]\x00",
        '["\ud800"]'.encode("utf-8", "surrogatepass"),
        b"1" * 5_000,
        b"",
        b"]][",
        b"[NaN]",
    ],
    ids=["open", "colon", "utf-16", "surrogate", "digits", "empty", "closed", "nan"],
)
def test_invalid_json_is_one_error_type(data: bytes) -> None:
    """Whatever is wrong with it, InvalidJson is raised."""
    with pytest.raises(InvalidJson, match=r"^data: not "):
        parse_json(data, SMALL)


def test_texts_by_the_million_are_not_taken_out_one_by_one() -> None:
    """More texts than members could have are over the limit before they are looked at."""
    data = b'["",' + b'"",' * 4_000_000 + b'""]'
    with pytest.raises(OverLimit, match="texts"):
        check_json(data, JsonLimit(bytes=len(data), depth=5, values=1_000))
