"""Playback of a recording: which answer a request gets, and what of a difference is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ocf.events.optional_task_fields import Rerun
from ocf.events.redaction import Redactor
from ocf.functions.recording.canonical import PartTable, RawPart, ranges
from ocf.functions.recording.lines import VERSION, CallLine, Head, Inputs
from ocf.functions.recording.playback import Answer, Playback
from ocf.functions.recording.reading import Recording

OF = "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11"
KEY = "ab" * 32


def request(system: str, *messages: str) -> list[RawPart]:
    """A request of one conversation."""
    said = [RawPart("message", json.dumps({"content": text}).encode()) for text in messages]
    return [RawPart("system", json.dumps(system).encode()), RawPart("tools", b"[]"), *said]


def recorded(*requests: list[RawPart]) -> Recording:
    """A recording of calls with these requests; call N answers `answer N`."""
    table = PartTable(KEY, Redactor())
    calls, parts = [], {}
    for number, one in enumerate(requests, 1):
        found = table.parts(one) or []
        parts |= {part.number: part for part in found}
        numbers = ranges([part.number for part in found])
        calls.append(CallLine(number=number, wire="chat", request=numbers, outcome="ok", answer=f"answer {number}"))
    head = Head(version=VERSION, attempt=1, key=KEY, holds="full")
    return Recording(head, Inputs(), parts, tuple(calls), ())


class Scene:
    """A playback, and what its requests got."""

    def __init__(self, recording: Recording, *, complete: bool = True, **asked: Any) -> None:
        self.table = PartTable(KEY, Redactor())
        self.playback = Playback(recording, Rerun(of=OF, **asked), self.table, complete=complete)

    def ask(self, one: Sequence[RawPart]) -> Answer:
        return self.playback.next(self.table.parts(one) or [])

    @property
    def said(self) -> list[tuple[int, str]]:
        return [(one.call, one.part) for one in self.playback.result.divergences]


def answers(scene: Scene, *requests: Sequence[RawPart]) -> list[int | None]:
    return [got.call.number if (got := scene.ask(one)).call else None for one in requests]


MAIN = [request("main", "do it", *(["a", "b"] * n)) for n in range(3)]
#: OpenCode asks for a title without tools.
TITLE = [one for one in request("You are a title generator", "do it") if one.kind != "tools"]
SUB = [request("sub", "look", *(["c"] * n)) for n in range(2)]


def test_answers_come_by_position_in_their_conversation_whoever_asks_first() -> None:
    """Title, main conversation and a subagent run at the same time; their order at the proxy changes nothing."""
    scene = Scene(recorded(TITLE, MAIN[0], SUB[0], MAIN[1], SUB[1]))
    assert answers(scene, MAIN[0], TITLE, SUB[0], SUB[1], MAIN[1]) == [2, 1, 3, 5, 4]
    assert scene.said == []
    assert scene.playback.played


def test_a_difference_is_said_once_with_its_place_and_text() -> None:
    """The part by which two requests differ, at the first call that has it."""
    scene = Scene(recorded(MAIN[0], MAIN[1], MAIN[2]))
    changed = [request("main", "do it", "a", "X", *rest) for rest in ([], ["a", "b"])]
    assert answers(scene, MAIN[0], *changed) == [1, 2, 3]
    assert scene.said == [(2, "message 3")]
    text = scene.playback.result.divergences[0].text or ""
    assert '"b"' in text.partition(", is ")[0]
    assert '"X"' in text.partition(", is ")[2]


def test_another_system_prompt_gets_the_most_similar_conversation() -> None:
    """As after an upgrade of the agent: the main conversation is found by its messages, and not the title's."""
    scene = Scene(recorded(TITLE, MAIN[0], MAIN[1]))
    newer = [request("main, newer", "do it", *(["a", "b"] * n)) for n in range(2)]
    assert answers(scene, *newer, TITLE) == [2, 3, 1]
    assert scene.said == [(2, "system")]


def test_with_fail_the_first_difference_ends_it_and_with_live_the_model_goes_on() -> None:
    """What `on_divergence` says; `live` stays live."""
    other = request("main", "do it", "a", "X")
    scene = Scene(recorded(MAIN[0], MAIN[1], MAIN[2]), on_divergence="fail")
    assert answers(scene, MAIN[0]) == [1]
    end = scene.ask(other)
    assert (end.end, "call 2 differs from the recording in message 3" in end.why) == ("diverged", True)
    scene = Scene(recorded(MAIN[0], MAIN[1], MAIN[2]), on_divergence="live")
    assert [scene.ask(one).live for one in (MAIN[0], other, MAIN[2])] == [False, True, True]
    assert (scene.playback.result.calls, scene.playback.result.live_calls) == (1, 2)


def test_until_a_call_and_then_the_model_or_the_end() -> None:
    """The recording answers up to that call."""
    recording = recorded(MAIN[0], MAIN[1], MAIN[2])
    scene = Scene(recording, until=1)
    assert answers(scene, MAIN[0]) == [1]
    assert scene.ask(MAIN[1]).end == "until"
    scene = Scene(recording, until=1, then="live")
    assert [scene.ask(one).live for one in MAIN] == [False, True, True]


def test_a_call_that_is_not_recorded() -> None:
    """A divergence after a run that completed; the end of one that went no further."""
    scene = Scene(recorded(MAIN[0]))
    assert answers(scene, MAIN[0]) == [1]
    assert scene.ask(MAIN[1]).end == "diverged"
    assert scene.said == [(2, "call")]
    scene = Scene(recorded(MAIN[0]), complete=False)
    assert answers(scene, MAIN[0]) == [1]
    assert scene.ask(MAIN[1]).end == "recording"
    assert scene.said == []
