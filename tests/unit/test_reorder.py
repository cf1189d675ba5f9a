"""The splice rule: live and history become one gapless stream."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocf.events.output import Chunk, ChunkType
from ocf.events.reorder import GapTimer, Reorderer

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def chunk(seq: int) -> Chunk:
    return Chunk(seq=seq, type=ChunkType.TEXT, data=str(seq), timestamp=NOW)


def test_delivered_chunk_is_not_delivered_again() -> None:
    """A chunk that comes live and from history counts once."""
    reorderer = Reorderer()
    assert [c.seq for c in reorderer.feed(chunk(1))] == [1]
    assert reorderer.feed(chunk(1)) == []
    assert not reorderer.gap


def test_a_chunk_that_is_early_waits() -> None:
    """A gap is seen at once, and closed by the missing chunk."""
    reorderer = Reorderer()
    assert reorderer.feed(chunk(3)) == []
    assert reorderer.gap
    assert [c.seq for c in reorderer.feed(chunk(1))] == [1]
    assert [c.seq for c in reorderer.feed(chunk(2))] == [2, 3]
    assert not reorderer.gap


def test_it_starts_where_it_is_told() -> None:
    """A resumed viewer gets nothing it has."""
    reorderer = Reorderer(start=3)
    assert reorderer.feed(chunk(2)) == []
    assert [c.seq for c in reorderer.feed(chunk(3))] == [3]


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_any_order_and_any_repeats_give_each_once_in_order(count: int, seed: int) -> None:
    """However two deliveries of every chunk are shuffled, the result is 1, 2, 3 …"""
    order = [*range(1, count + 1)] * 2
    random.Random(seed).shuffle(order)
    reorderer = Reorderer()
    given_ = [c.seq for seq in order for c in reorderer.feed(chunk(seq))]
    assert given_ == list(range(1, count + 1))
    assert not reorderer.gap


def test_a_hole_is_read_for_four_times_within_two_seconds() -> None:
    """At 0, 0.25, 0.75 and 1.75 s; then it is given up. Another hole begins anew, 0.25 s after the last read."""
    hole, now, reads = GapTimer(), 100.0, []
    while True:
        now += hole.wait(3, now)
        reads.append(now - 100.0)
        if hole.read(3, now):
            break
    assert reads == [0, 0.25, 0.75, 1.75]
    assert hole.wait(9, now + 0.1) == pytest.approx(0.15)
    assert not hole.read(9, now + 0.25)
    assert not any(hole.read(None, now) for _ in range(9))
