"""The checker of the fault suite, of sessions: a good history passes, each way to be broken is found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from faults.check import Ledger, violations
from faults.check_sessions import wrong_of_session
from faults.fixed_answer_model import STREAMED
from faults.history_reader import Fact, History, SessionStory, Story

FIRST, SECOND = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
World = tuple[SessionStory, list[Story]]


def turn(execution: str, number: int, at: float, state: str = "completed") -> Story:
    """A turn that found the work of `number - 1` others."""
    output = [{"seq": 1, "type": "tool", "data": f"kept {number}\n", "attempt": 1}]
    output.append({"seq": 2, "type": "text", "data": "w0 wend", "attempt": 1})
    return Story("p", execution, output=output, kept_at={1: at, 2: at + 1}, record={"state": state})


def artifact(name: str, content: bytes) -> dict[str, Any]:
    return {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def good() -> World:
    """Two turns, both completed, and what the second one left."""
    objects = {"b.talk": b"talk", "b.tar": b"files"}
    saved = {
        "execution_id": SECOND,
        "conversation": artifact("b.talk", b"talk"),
        "workspace": artifact("b.tar", b"files"),
    }
    record = {"state": "open", "queue": [], "executions": [FIRST, SECOND], "saved": saved}
    session = SessionStory("p", "s", ["create"], ["created"], record, objects)
    return session, [turn(FIRST, 1, 10.0), turn(SECOND, 2, 12.0)]


def _record(**changes: Any) -> Callable[[SessionStory, list[Story]], None]:
    def change(session: SessionStory, _: list[Story]) -> None:
        session.record = {**(session.record or {}), **changes}

    return change


def _turn(number: int, state: str) -> Callable[[SessionStory, list[Story]], None]:
    """The second turn found that much, after a first one that ended in that state."""

    def change(_: SessionStory, turns: list[Story]) -> None:
        turns[:] = [turn(FIRST, 1, 10.0, state), turn(SECOND, number, 12.0)]

    return change


GOOD: dict[str, Callable[[SessionStory, list[Story]], Any]] = {
    "as it should be": lambda session, turns: None,
    "a failed turn left its work": _turn(2, "failed"),
    "a failed turn left nothing": _turn(1, "failed"),
    "nothing was saved, since the last turn was lost": lambda session, turns: (
        session.objects.clear(),
        _record(saved=None)(session, turns),
        turns[1].__setattr__("record", {"state": "failed"}),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_session_passes(name: str) -> None:
    session, turns = good()
    GOOD[name](session, turns)
    assert list(wrong_of_session(session, turns, destroyed=False)) == []


BROKEN: dict[str, tuple[str, Callable[[SessionStory, list[Story]], Any]]] = {
    "the record is gone": ("its record is lost", lambda session, turns: setattr(session, "record", None)),
    "never destroyed wholly": ("it is destroying", _record(state="destroying")),
    "somebody waits for ever": ("wait", _record(queue=[SECOND])),
    "it forgot a turn": ("accepted were", _record(executions=[SECOND])),
    "turns changed places": ("accepted were", _record(executions=[SECOND, FIRST])),
    "two turns at once": ("spoke 0.5 s after", lambda session, turns: turns[0].kept_at.update({2: 12.5})),
    "a turn's work is lost": ("found the work of 0 turns; 1 had", _turn(1, "completed")),
    "a turn's work was done twice": ("found the work of 2 turns", _turn(3, "completed")),
    "a turn is silent about it": ("does not say", lambda session, turns: turns[1].output.pop(0)),
    "an object that nobody names": ("does not name: ['a.tar']", lambda s, turns: s.objects.update({"a.tar": b""})),
    "an object is missing": ("b.tar is named and not there", lambda s, turns: s.objects.pop("b.tar")),
    "an object is damaged": ("b.tar is not what", lambda s, turns: s.objects.update({"b.tar": b"other"})),
    "the last turn was not saved": ("the state saved is that of None", _record(saved=None)),
}


def test_silence_about_what_was_found_is_excused_by_the_real_agent_alone() -> None:
    """A completed turn that lost all its words says nothing of the others' work either."""
    session, turns = good()
    turns[1].output[:] = [{"seq": 1, "type": "text", "data": "", "attempt": 1}]
    (found,) = list(wrong_of_session(session, turns, destroyed=False))
    assert found == f"turn {SECOND} does not say what it found"
    turns[1].output[:] = [{"seq": 1, "type": "text", "data": f"{STREAMED}The offline model", "attempt": 1}]
    assert list(wrong_of_session(session, turns, destroyed=False)) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_session_is_found(name: str) -> None:
    session, turns = good()
    wanted, change = BROKEN[name]
    change(session, turns)
    found = list(wrong_of_session(session, turns, destroyed=False))
    assert any(wanted in what for what in found), found


def test_of_a_destroyed_session_only_that_fact_is_left() -> None:
    """Record, objects, commands and further facts are each found."""
    assert list(wrong_of_session(SessionStory("p", "s", facts=["destroyed"]), [], destroyed=True)) == []
    session, turns = good()
    (left, unsaid) = list(wrong_of_session(session, turns, destroyed=True))
    assert all(name in left for name in ("record", "objects", "commands", "facts"))
    assert unsaid == "not said once to be destroyed"


def test_a_destruction_that_nobody_asked_for_is_found() -> None:
    """One that was asked for, acknowledged or not, is none; one that was never carried out leaves the session open."""
    history = History(sessions={"p/s": SessionStory("p", "s", facts=["destroyed"])})
    (found,) = violations(history, Ledger(sessions={"p/s": []}))
    assert (found.rule, found.what) == ("session", "destroyed, and nobody asked")
    assert violations(history, Ledger(sessions={"p/s": []}, asked_to_destroy={"p/s"})) == []
    record = {"state": "open", "queue": [], "executions": []}
    row = {"p/s": {"sessions": [{"session_id": "s"}]}}
    history = History(sessions={"p/s": SessionStory("p", "s", ["create"], ["created"], record)}, rows=row, rebuilt=row)
    assert violations(history, Ledger(sessions={"p/s": []}, asked_to_destroy={"p/s"})) == []


def test_sessions_are_looked_at_with_everything_else() -> None:
    """Those that clients created and those that are there: what is wrong with one is said under its project."""
    history = History(sessions={"p/s": SessionStory("p", "s", facts=["destroyed"])})
    cleaned = {f"p/{FIRST}": Story("p", FIRST, facts=[Fact("cleaned", "c", {})])}
    history.stories.update(cleaned)
    ledger = Ledger(sessions={"p/s": [FIRST]}, destroyed={"p/s"}, deleted={f"p/{FIRST}"})
    assert violations(history, ledger) == []
    ledger.sessions["p/other"] = []
    [found] = violations(history, ledger)
    assert (found.rule, found.project, found.execution) == ("session", "p", "other")
