"""The table of the fault suite: what a seed chooses."""

from __future__ import annotations

import pytest

from faults.fault_pairs import ALL, FAULTS, VICTIMS, chosen


def test_the_table_is_every_victim_by_every_fault() -> None:
    """Twelve victims, nine faults, each pair once."""
    assert len(ALL) == len(set(ALL)) == len(VICTIMS) * len(FAULTS) == 108


def test_a_seed_says_which_and_in_which_order() -> None:
    """The same seed gives the same pairs in the same order, another one others; a quarter is 27."""
    assert chosen("", quarter=False, seed=1) == chosen("", quarter=False, seed=1)
    assert set(chosen("", quarter=False, seed=1)) == set(ALL)
    assert len(chosen("", quarter=True, seed=1)) == 27
    assert chosen("", quarter=True, seed=1) != chosen("", quarter=True, seed=2)


def test_runs_may_share_the_table() -> None:
    """Three shares of one seed are the whole table, each pair once."""
    shares = [chosen("", quarter=False, seed=1, share=f"{number}/3") for number in (1, 2, 3)]
    assert sorted(pair.name for share in shares for pair in share) == sorted(pair.name for pair in ALL)


def test_pairs_rows_and_columns_can_be_asked_for() -> None:
    """`victim:fault`, `victim`, `:fault`; what is not in the table is refused by name."""
    assert [pair.name for pair in chosen("execute:kill9", quarter=False, seed=1)] == ["execute:kill9"]
    assert {pair.victim for pair in chosen(":cut", quarter=False, seed=1)} == set(VICTIMS)
    assert {pair.fault for pair in chosen("s3", quarter=False, seed=1)} == set(FAULTS)
    with pytest.raises(ValueError, match="nobody"):
        chosen("nobody:kill9", quarter=False, seed=1)
