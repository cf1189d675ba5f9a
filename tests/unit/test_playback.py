"""Playback of a recording: which answer a request gets, and what of a difference is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ocf.events.optional_task_fields import Rerun
from ocf.events.redaction import Redactor
from ocf.functions.recording.canonical import PartTable, RawPart, ranges
from ocf.functions.recording.line_types import VERSION, CallLine, Exchange, Head, Inputs, Reply
from ocf.functions.recording.playback import Answer, Playback
from ocf.functions.recording.recorded_calls_reader import Recording

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

    def fetch(self, body: str, target: str = "/", route: str = "secrets.API") -> str | None:
        """The recorded answer to a POST; None: there is none, `end`: the rerun ends."""
        got = self.playback.exchange(route, "POST", target, self.table.digest("exchange", body.encode()))
        return "end" if isinstance(got, Answer) else None if got is None else got.answer

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


def exchanges(*bodies: tuple[str, str]) -> tuple[Exchange, ...]:
    """Recorded POSTs by body and answer."""
    digest = PartTable(KEY, Redactor()).digest
    about = {"route": "secrets.API", "method": "POST", "target": "/", "status": 200}
    return tuple(
        Exchange.model_validate({**about, "number": n, "hash": digest("exchange", body.encode()), "answer": answer})
        for n, (body, answer) in enumerate(bodies, 1)
    )


def test_requests_to_routes_get_their_recorded_answers_in_whatever_order() -> None:
    """Equal requests get theirs in order; ids of JSON-RPC and times make no other request."""
    rpc = '{"jsonrpc":"2.0","id":%d,"method":"tools/list","at":"2026-11-29T18:00:01Z"}'
    said = exchanges(("a", "1"), ("b", "2"), ("a", "3"), (rpc % 4, "4"))
    scene = Scene(replace(recorded(MAIN[0]), exchanges=said))
    assert [scene.fetch(body) for body in ("b", "a", rpc % 7, "a")] == ["2", "1", "4", "3"]
    assert scene.said == []


def test_a_request_to_a_route_that_is_not_recorded_is_said_and_gets_what_on_divergence_says() -> None:
    """`nearest`: an answer left to another body; `fail`: the end; `live`: none, since a rerun reaches no network."""
    recording = replace(recorded(MAIN[0]), exchanges=exchanges(("a", "1")))
    scene = Scene(recording)
    assert [scene.fetch("x"), scene.fetch("a"), scene.fetch("a", "/other")] == ["1", None, None]
    assert scene.said == [(0, "secrets.API")] * 3
    assert Scene(recording, on_divergence="fail").fetch("x") == "end"
    assert Scene(recording, on_divergence="live").fetch("x") is None
    assert Scene(recording).fetch("a", route="mcp.API") is None


def test_replies_are_given_again_to_the_same_request() -> None:
    """By the number of the request; another question gets it, too, and that is said. Follow-ups come by themselves."""
    digest = PartTable(KEY, Redactor()).digest
    replies = (
        Reply(request=1, hash=digest("request", b"permission\nrm x"), answer="once", calls=1),
        Reply(request=0, answer="now the tests", calls=2),
        Reply(request=2, hash=digest("request", b"question\nwhich?"), answer=None, calls=3),
    )
    recording = replace(recorded(MAIN[0]), replies=replies)
    scene = Scene(recording, complete=False)
    assert scene.playback.reply(1, "permission\nrm x") == replies[0]
    assert scene.playback.follow_ups == ["now the tests"]
    assert scene.playback.reply(2, "question\nwhat?") == replies[2]
    assert scene.said == [(0, "request 2")]
    assert scene.playback.reply(3, "question\nagain?") is None
    scene.ask(MAIN[0])
    over = scene.playback.reply(3, "question\nagain?")
    assert isinstance(over, Answer)
    assert over.end == "recording"
    early = Scene(recording, until=1).playback
    assert (early.follow_ups, early.reply(2, "question\nwhich?")) == ([], None)
