"""An agent that repeats itself is noticed; one that waits for something to change is not."""

from __future__ import annotations

import pytest

from ocf.events.output import ChunkType, Draft
from ocf.functions.execute.agent.repetition import Repetition


def noticed(repetition: Repetition, calls: list[tuple[str, str]]) -> list[int]:
    """The numbers of the calls, from 1, at which a repetition was noticed."""
    found = []
    for number, (command, result) in enumerate(calls, 1):
        detail = {"call_id": f"c{number}", "tool": "bash"}
        call = Draft(type=ChunkType.TOOL_CALL, data="", detail={**detail, "input": {"command": command}})
        assert not repetition.note(call)
        if repetition.note(Draft(type=ChunkType.TOOL_RESULT, data=result, detail={**detail, "ok": True})):
            found.append(number)
    return found


LS, CAT = ("ls", "a"), ("cat", "b")


@pytest.mark.parametrize(("calls", "at"), [
    ([LS] * 4, [4]), ([LS] * 8, [4, 8]), ([CAT, CAT, LS, LS, LS, LS], [6]),
    ([LS, CAT] * 4, [8]), ([LS, CAT] * 3, []), ([LS] * 3 + [CAT] + [LS] * 3, []),
    ([("date", str(second)) for second in range(20)], []), ([(f"cat {n}", "same") for n in range(20)], []),
])  # fmt: skip
def test_equal_calls_with_equal_results_are_a_repetition(calls: list[tuple[str, str]], at: list[int]) -> None:
    """Four in a row, or four of each of two that alternate; another input or another result begins from nothing."""
    assert noticed(Repetition(4), calls) == at


def test_it_can_be_switched_off() -> None:
    """0 watches nothing."""
    assert noticed(Repetition(0), [LS] * 100) == []


def test_a_result_without_its_call_says_nothing() -> None:
    """A conversation that is taken up again may begin in the middle."""
    detail = {"call_id": "c", "tool": "bash", "ok": True}
    assert not any(Repetition(1).note(Draft(type=ChunkType.TOOL_RESULT, data="", detail=detail)) for _ in range(5))
