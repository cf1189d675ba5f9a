"""The splice rule: live and history become one gapless stream."""

from __future__ import annotations

import random
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from events.output import Chunk, ChunkType
from events.splice import Splicer

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def chunk(seq: int) -> Chunk:
    return Chunk(seq=seq, type=ChunkType.TEXT, data=str(seq), timestamp=NOW)


def test_what_was_given_is_not_given_again() -> None:
    """A chunk that comes live and from history counts once."""
    splicer = Splicer()
    assert [c.seq for c in splicer.feed(chunk(1))] == [1]
    assert splicer.feed(chunk(1)) == []
    assert not splicer.gap


def test_a_chunk_that_is_early_waits() -> None:
    """A gap is seen at once, and closed by the missing chunk."""
    splicer = Splicer()
    assert splicer.feed(chunk(3)) == []
    assert splicer.gap
    assert [c.seq for c in splicer.feed(chunk(1))] == [1]
    assert [c.seq for c in splicer.feed(chunk(2))] == [2, 3]
    assert not splicer.gap


def test_it_starts_where_it_is_told() -> None:
    """A resumed viewer gets nothing it has."""
    splicer = Splicer(start=3)
    assert splicer.feed(chunk(2)) == []
    assert [c.seq for c in splicer.feed(chunk(3))] == [3]


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_any_order_and_any_repeats_give_each_once_in_order(count: int, seed: int) -> None:
    """However two deliveries of every chunk are shuffled, the result is 1, 2, 3 …"""
    order = [*range(1, count + 1)] * 2
    random.Random(seed).shuffle(order)
    splicer = Splicer()
    given_ = [c.seq for seq in order for c in splicer.feed(chunk(seq))]
    assert given_ == list(range(1, count + 1))
    assert not splicer.gap
