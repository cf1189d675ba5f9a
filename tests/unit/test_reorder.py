"""The order of output: live and history become one sequence without gaps."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocf.events.reorder import GapTimer, Line, Reorderer, fill_gap, gap_lines, line_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
#: `console/tests/stream/splice.test.ts` runs the same file.
VECTORS = json.loads((Path(__file__).parent / "data/reorder.json").read_text())["vectors"]


def reorderer(start: int = 1, **limits: int) -> Reorderer:
    return Reorderer(start, gap_lines(lambda: NOW), **limits)


def chunk(said: Any) -> Line:
    """The line of a number, a reported gap or an object, as in the vectors."""
    if isinstance(said, list):
        said = {"seq": said[0], "type": "gap", "detail": {"reason": "expired", "from": said[0], "to": said[1]}}
    elif isinstance(said, int):
        said = {"seq": said}
    return line_of(json.dumps({"seq": said["seq"], "type": "text", **said}, separators=(",", ":")).encode())


def shown(line: Line) -> Any:
    return line.seq if line.gap is None else [line.seq, line.last]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_it_does_what_the_vectors_say(vector: dict[str, Any]) -> None:
    """The console's stream library is held to the same file."""
    order = reorderer(vector["start"], held=vector.get("held", 100))
    for step in vector["steps"]:
        ready = order.feed(chunk(step["feed"])) if "feed" in step else order.skip(step["skip"])
        assert len(ready) == len(step["ready"]), step
        for line, wanted in zip(ready, step["ready"], strict=True):
            if isinstance(wanted, dict):
                assert json.loads(line.data).items() >= wanted.items()
            else:
                assert shown(line) == wanted, step
            assert json.loads(line.data)["seq"] == line.seq
    assert order.next == vector["next"]
    assert order.missing == (vector["missing"] and vector["missing"][1])
    assert len(order) == 0 or vector["missing"]


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_any_order_and_any_repeats_give_each_once_in_order(count: int, seed: int) -> None:
    """However two deliveries of every chunk are shuffled, the result is 1, 2, 3 …"""
    numbers = [*range(1, count + 1)] * 2
    random.Random(seed).shuffle(numbers)
    order = reorderer()
    assert [shown(line) for seq in numbers for line in order.feed(chunk(seq))] == list(range(1, count + 1))
    assert order.missing is None


_SAID = st.one_of(st.integers(1, 30), st.tuples(st.integers(1, 30), st.integers(0, 9)).map(lambda g: [g[0], sum(g)]))


@given(st.lists(st.one_of(_SAID, st.none()), max_size=60), st.integers(1, 8))
def test_every_sequence_is_delivered_or_reported_once(steps: list[Any], held: int) -> None:
    """Whatever arrives, with whatever bound, and wherever a gap is given up: the ranges follow each other."""
    order, at = reorderer(held=held), 1
    for step in [*steps, 50]:
        for line in order.skip(step) if step in (None, 50) else order.feed(chunk(step)):
            assert line.seq == at
            at = line.last + 1
        assert len(order) <= held
    assert at == order.next == 51


def test_bytes_are_bounded_too() -> None:
    """Of few large lines that wait, the ones behind are dropped."""
    order = reorderer(held_bytes=330)
    for seq in (5, 4, 3, 2):
        order.feed(chunk({"seq": seq, "data": "x" * 70}))
    assert len(order) == 3
    assert [shown(line) for line in order.feed(chunk(1))] == [1, 2, 3, 4]


def test_the_order_of_what_was_dropped_costs_no_memory() -> None:
    """A sender that counts down makes each chunk drop another one."""
    order = reorderer(held=4)
    for seq in range(10_000, 1, -1):
        order.feed(chunk(seq))
    assert len(order._order) < 1_000
    assert order.missing == 1


async def archive(*said: Any) -> AsyncIterator[Line]:
    for one in said:
        yield chunk(one)


@pytest.mark.parametrize(
    ("archived", "ready"),
    [
        ([], [[2, 5], 6]),
        ([1, 2, 3, 4, 5, 6, 7], [2, 3, 4, 5, 6]),
        ([1, 2, 5, 6], [2, [3, 4], 5, 6]),
        ([1, [2, 3], 4, 5], [[2, 3], 4, 5, 6]),
        ([[1, 3], 4], [[2, 3], 4, [5, 5], 6]),
        ([2, [3, 9]], [2, [3, 5], 6]),
    ],
)
async def test_an_archive_fills_a_gap_as_far_as_it_can(archived: list[Any], ready: list[Any]) -> None:
    """Its own gaps stay reported, and end where the stream goes on."""
    order = reorderer()
    order.feed(chunk(1))
    order.feed(chunk(6))
    assert [shown(line) async for line in fill_gap(order, archive(*archived), 5)] == ready


def test_a_gap_is_read_for_four_times_within_two_seconds() -> None:
    """At 0, 0.25, 0.75 and 1.75 s; then it is given up. Another gap begins again, 0.25 s after the last read."""
    gap, now, reads = GapTimer(), 100.0, []
    while True:
        now += gap.wait(3, now)
        reads.append(now - 100.0)
        if gap.read(3, now):
            break
    assert reads == [0, 0.25, 0.75, 1.75]
    assert gap.wait(9, now + 0.1) == pytest.approx(0.15)
    assert not gap.read(9, now + 0.25)
    assert not any(gap.read(None, now) for _ in range(9))
