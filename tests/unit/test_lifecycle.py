"""The life cycle is one table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocf.events.errors import IllegalStep
from ocf.events.lifecycle import TABLE, TERMINAL, State, Step, step


def test_terminal_states_are_those_that_nothing_leaves() -> None:
    """Exactly these five end an execution."""
    assert {str(state) for state in TERMINAL} == {"completed", "failed", "cancelled", "timed_out", "rejected"}


@given(st.lists(st.sampled_from(list(Step)), max_size=12))
def test_no_sequence_of_steps_leaves_a_terminal_state(steps: list[Step]) -> None:
    """Whatever is tried, in whatever order, there is at most one end."""
    state: State | None = None
    ended: State | None = None
    for taken in steps:
        try:
            state = step(state, taken)
        except IllegalStep:
            continue
        assert ended is None
        ended = state if state in TERMINAL else None


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_an_illegal_step_names_state_and_step(state: State) -> None:
    """The error says what was tried, and from where."""
    with pytest.raises(IllegalStep, match=rf"'start'.*'{state}'"):
        step(state, Step.START)


def test_every_state_can_be_reached() -> None:
    """No state is only a word."""
    assert set(TABLE.values()) == set(State)
