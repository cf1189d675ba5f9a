"""The table of slots: round robin between projects that wait, and how many each may hold."""

from __future__ import annotations

from collections import Counter

import pytest

from ocf.functions.dispatcher.fair_shares import Shares


def taken(shares: Shares) -> list[tuple[str, int]]:
    """All turns that can be given now."""
    turns = []
    while (turn := shares.next()) is not None:
        turns.append(turn)
        shares.wait(turn[0])
    return turns


def test_projects_that_wait_take_turns() -> None:
    """A slot goes to the one that holds least; of those that hold as much, to the one that waits longest."""
    shares = Shares(7)
    for project in ("a", "b", "c"):
        shares.wait(project)
    assert taken(shares) == [("a", 2), ("b", 1), ("c", 1), ("b", 1), ("c", 1)]
    shares.release("a")
    assert taken(shares) == [("a", 1)]
    for project in ("b", "a", "c"):
        shares.release(project)
    assert taken(shares) == [("b", 1), ("c", 1), ("a", 1)]


def test_the_next_free_slot_goes_to_the_project_that_waits_and_holds_none() -> None:
    """However much another waits: it had its turns."""
    shares = Shares(4)
    shares.wait("greedy")
    taken(shares)
    shares.wait("patient")
    assert shares.next() == ("patient", 1)
    assert shares.next() is None


@pytest.mark.parametrize(("slots", "alone"), [(1, 1), (2, 1), (4, 3), (8, 6), (32, 24), (160, 120)])
def test_a_project_that_is_alone_holds_three_quarters(slots: int, alone: int) -> None:
    """The rest is for whoever comes, at once."""
    shares = Shares(slots)
    shares.wait("greedy")
    taken(shares)
    assert shares.held("greedy") == alone
    assert slots == 1 or shares.take("newcomer")


@pytest.mark.parametrize("projects", [2, 5, 20, 31])
def test_a_slot_is_left_for_a_newcomer_while_there_are_more_slots_than_projects(projects: int) -> None:
    """However many hold as much as they may, nobody holds more than an eighth of the slots more than another."""
    shares = Shares(32)
    for number in range(projects):
        shares.wait(str(number))
    taken(shares)
    held = Counter({str(number): shares.held(str(number)) for number in range(projects)})
    assert min(held.values()) >= 1
    assert max(held.values()) - min(held.values()) <= 4
    assert shares.take("newcomer")


def test_nobody_holds_more_than_the_quota_wherever_it_runs() -> None:
    """What runs at a worker and holds no slot here counts too; other projects go on."""
    shares = Shares(32, quota=3)
    shares.count_elsewhere({"greedy": 1})
    for project in ("greedy", "other"):
        shares.wait(project)
    taken(shares)
    assert (shares.held("greedy"), shares.held("other")) == (2, 3)
    shares.count_elsewhere({})
    assert taken(shares) == [("greedy", 1)]


def test_a_project_that_does_not_wait_gets_nothing() -> None:
    """No slot is held for whoever has nothing to deliver."""
    shares = Shares(4)
    assert shares.next() is None
    shares.wait("a")
    assert shares.next() is not None
    assert shares.next() is None
