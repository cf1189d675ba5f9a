"""What OpenCode's recorded events become."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from typing import Any

import pytest

from ocf.events import untrusted_json
from ocf.events.lifecycle import Reason
from ocf.events.output import ChunkType, Draft
from ocf.functions.execute.agent.opencode_conversion import failure
from ocf.functions.execute.agent.translate import Translator
from tests.unit.opencode_recordings import NAMES, Recording


def of(drafts: list[Draft], type: ChunkType) -> list[Draft]:
    return [draft for draft in drafts if draft.type is type]


def test_a_turn_with_tools_is_told_completely_and_in_order() -> None:
    """Reasoning, text, call, live output, result, file changes, todo, usage: each once; the result is the last text."""
    translator, drafts = Recording("tools").whole()
    assert translator.idle
    assert translator.error is None
    assert (
        translator.result_text == "All done: hello.txt says hello there. This is the final answer in a few words more."
    )
    assert "".join(d.data for d in of(drafts, ChunkType.REASONING)) == "I should look at the files first."
    assert [d.data for d in of(drafts, ChunkType.STDOUT)] == ["line 1\n", "line 2\n", "line 3\n", "err\n"]
    calls = [d.detail["call_id"] for d in of(drafts, ChunkType.TOOL_CALL) if d.detail]
    assert calls == ["call_b1", "call_w1", "call_r0", "call_e1", "call_t1", "call_b2", "call_r1"]
    results = {d.detail["call_id"]: d.detail for d in of(drafts, ChunkType.TOOL_RESULT) if d.detail}
    assert results["call_b1"]["ok"] is True
    assert results["call_b1"]["exit_code"] == 0
    assert results["call_b1"]["duration_ms"] > 0
    assert results["call_b2"]["ok"] is False
    assert results["call_b2"]["exit_code"] == 3
    assert results["call_r1"]["ok"] is False
    changes = [d.detail for d in of(drafts, ChunkType.FILE_CHANGE)]
    assert changes == [
        {"path": "hello.txt", "change": "added", "additions": 2, "deletions": 0},
        {"path": "hello.txt", "change": "modified", "additions": 1, "deletions": 1},
    ]
    assert [d.data for d in of(drafts, ChunkType.TODO)] == ["1 of 2 done"]
    assert translator.usage.requests == 6
    assert translator.usage.total_tokens == 14_829


@pytest.mark.parametrize("name", NAMES)
def test_every_recording_ends_idle_and_a_resync_adds_nothing(name: str) -> None:
    """A turn that was heard completely is not told again by the messages read at its end."""
    recording = Recording(name)
    translator = recording.translator()
    for event in recording.events:
        translator.feed(event)
    assert translator.idle
    assert translator.feed(recording.resync(len(recording.events))) == []


def test_a_permission_request_waits_until_it_is_answered() -> None:
    """The draft names the request and its options; the reply ends the waiting."""
    recording = Recording("ask")
    translator, asked = recording.translator(), []
    for event in recording.events:
        drafts = translator.feed(event)
        asked += of(drafts, ChunkType.PERMISSION)
        if event["type"] == "permission.asked":
            assert list(translator.waiting) == [event["properties"]["id"]]
    assert [draft.data for draft in asked] == ["bash: touch asked.txt"]
    assert asked[0].detail is not None
    assert asked[0].detail["options"] == ["once", "always", "reject"]
    assert translator.waiting == {}


def test_a_question_carries_its_labels() -> None:
    """Options are the labels of the question."""
    _, drafts = Recording("question").whole()
    (question,) = of(drafts, ChunkType.QUESTION)
    assert question.data == "Which colour?"
    assert question.detail is not None
    assert question.detail["options"] == ["red", "blue"]


def test_a_subagents_words_are_not_the_answer() -> None:
    """Its text is reasoning, its tools and tokens are told, its end is not the end of the turn."""
    translator, drafts = Recording("subagent").whole()
    assert translator.result_text == "child says done"
    assert "".join(d.data for d in of(drafts, ChunkType.REASONING)) == "child text"
    assert "".join(d.data for d in of(drafts, ChunkType.TEXT)) == "child says done"
    assert translator.usage.requests == 4


def test_a_call_of_an_unknown_tool_keeps_the_name_the_model_used() -> None:
    """OpenCode renames it to `invalid`; readers see what was asked for, and that it failed."""
    _, drafts = Recording("invalid_tool").whole()
    (call,), (result,) = of(drafts, ChunkType.TOOL_CALL), of(drafts, ChunkType.TOOL_RESULT)
    assert call.detail is not None
    assert result.detail is not None
    assert call.detail["tool"] == "nosuchtool"
    assert result.detail["ok"] is False


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [("auth", Reason.MODEL_AUTH, "Invalid API key"), ("retry", Reason.MODEL_ERROR, "Rate limited")],
)
def test_session_errors_have_a_reason(name: str, reason: Reason, words: str) -> None:
    """Credentials the model refuses and a model that gives up are told apart."""
    translator, _ = Recording(name).whole()
    assert translator.error is not None
    assert translator.error[0] is reason
    assert words in translator.error[1]


def test_retries_are_told_once_each() -> None:
    """Each retry is a status of phase `retry`."""
    _, drafts = Recording("retry").whole()
    phases = Counter(d.detail["phase"] for d in of(drafts, ChunkType.STATUS) if d.detail)
    assert phases == {"model": 1, "retry": 5}


def test_an_aborted_turn_is_no_error() -> None:
    """The abort is flagged; the cut shell has no exit code and is not ok; OpenCode's note is not the shell's output."""
    translator, drafts = Recording("abort").whole()
    assert translator.aborted
    assert translator.error is None
    (result,) = of(drafts, ChunkType.TOOL_RESULT)
    assert result.detail is not None
    assert result.detail["ok"] is False
    assert of(drafts, ChunkType.STDOUT) == []


def test_idle_of_the_turn_before_does_not_end_the_next() -> None:
    """After `begin_turn` only an idle that follows a busy counts."""
    recording = Recording("plain")
    translator, _ = recording.whole()
    translator.begin_turn()
    assert not translator.idle
    translator.feed({"type": "session.idle", "properties": {"sessionID": recording.session}})
    assert not translator.idle
    translator.feed(recording.resync(len(recording.events)))
    assert not translator.idle


def test_other_sessions_are_not_heard() -> None:
    """A server's warm-up session says nothing."""
    recording = Recording("plain")
    translator = Translator("ses_other", recording.directory)
    assert [draft for event in recording.events for draft in translator.feed(event)] == []
    assert not translator.idle


def test_unknown_events_and_shapes_say_nothing() -> None:
    """A newer OpenCode may send what this one does not know."""
    translator = Translator("ses_1", "/workspace")
    assert translator.feed({"type": "message.new-kind", "properties": {}}) == []
    assert translator.feed({"type": "session.idle"}) == []
    assert translator.feed({}) == []


def test_text_that_was_lost_without_a_reconnect_is_said_again_with_a_gap() -> None:
    """A delta that never came shows when the part ends: a gap is stated and the text follows from there."""
    translator = Translator("ses_1", "/workspace")
    part = {"id": "prt_1", "sessionID": "ses_1", "messageID": "msg_1", "type": "text"}
    delta = {"sessionID": "ses_1", "messageID": "msg_1", "partID": "prt_1", "field": "text"}
    message = {"id": "msg_1", "sessionID": "ses_1", "role": "assistant", "time": {}}
    events = [
        {"type": "message.updated", "properties": {"info": message}},
        {"type": "message.part.updated", "properties": {"part": {**part, "text": ""}}},
        {"type": "message.part.delta", "properties": {**delta, "delta": "one "}},
        {"type": "message.part.delta", "properties": {**delta, "delta": "three"}},
        {"type": "message.part.updated", "properties": {"part": {**part, "text": "one two three", "time": {"end": 2}}}},
    ]
    drafts = [draft for event in events for draft in translator.feed(event)]
    assert [(d.type.value, d.data) for d in drafts] == [
        ("text", "one "),
        ("text", "three"),
        ("gap", "some of this text was lost on the way; it follows again"),
        ("text", "wo three"),
    ]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ({"name": "ProviderAuthError", "data": {"message": "no key"}}, Reason.MODEL_AUTH),
        ({"name": "APIError", "data": {"message": "no", "statusCode": 403}}, Reason.MODEL_AUTH),
        ({"name": "APIError", "data": {"message": "boom", "statusCode": 503}}, Reason.MODEL_ERROR),
        ({"name": "ContextOverflowError", "data": {"message": "too long"}}, Reason.MODEL_ERROR),
        ({"name": "UnknownError", "data": {"message": "TypeError\n at x"}}, Reason.AGENT_ERROR),
        ({}, Reason.AGENT_ERROR),
    ],
)
def test_error_objects_become_reasons(error: dict[str, object], reason: Reason) -> None:
    """Every shape has a reason and one line."""
    found, message = failure(error)
    assert found is reason
    assert message
    assert "\n" not in message


PART = {"id": "prt_1", "sessionID": "ses_1", "messageID": "msg_1"}


def opened(kind: str = "text") -> Translator:
    """A translator of a turn whose assistant has begun a part."""
    translator = Translator("ses_1", "/workspace")
    message = {"id": "msg_1", "sessionID": "ses_1", "role": "assistant", "time": {}}
    translator.feed({"type": "message.updated", "properties": {"info": message}})
    translator.feed(updated(type=kind, text=""))
    return translator


def updated(**fields: Any) -> dict[str, Any]:
    return {"type": "message.part.updated", "properties": {"part": {**PART, **fields}}}


def delta(text: str) -> dict[str, Any]:
    properties = {"sessionID": "ses_1", "messageID": "msg_1", "partID": "prt_1", "field": "text", "delta": text}
    return {"type": "message.part.delta", "properties": properties}


def test_an_emoji_that_two_deltas_share_is_said_whole_and_is_no_gap() -> None:
    """JavaScript cuts between the halves of a surrogate pair; the whole text at the end then has nothing new."""
    translator = opened()
    drafts = [draft for text in ("Fix the \ud83d", "\ude00 now", " \ud83d") for draft in translator.feed(delta(text))]
    drafts += translator.feed(updated(type="text", text="Fix the 😀 now 😀", time={"end": 2}))
    assert [(d.type, d.data) for d in drafts] == [
        (ChunkType.TEXT, "Fix the "),
        (ChunkType.TEXT, "😀 now"),
        (ChunkType.TEXT, " "),
        (ChunkType.TEXT, "😀"),
    ]
    assert translator.result_text == "Fix the 😀 now 😀"


def test_half_an_emoji_whose_other_half_never_comes_is_kept() -> None:
    """A text that ends inside a pair says so in its last update; the half is not lost before it gets there."""
    translator = opened()
    drafts = translator.feed(delta("so\ud83d")) + translator.feed(delta("me"))
    drafts += translator.feed(updated(type="text", text="so\ud83dme", time={"end": 2}))
    assert "".join(d.data for d in drafts) == "so\ud83dme"
    assert not of(drafts, ChunkType.GAP)


@pytest.mark.parametrize("kind", ["text", "reasoning"])
def test_a_delta_costs_what_it_weighs_however_long_its_part_is(kind: str) -> None:
    """After 17 MB of a part, a delta and what it says touch no memory but their own: no copy of what was said."""
    translator = opened(kind)
    for _ in range(17 * 1024):
        translator.feed(delta("x" * 1024))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        said = sum(len(draft.data) for _ in range(200) for draft in translator.feed(delta("y" * 1024)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert said == 200 * 1024
    assert peak - before < 1024 * 1024
    whole = "x" * 17 * 1024 * 1024 + "y" * 200 * 1024
    assert translator.feed(updated(type=kind, text=whole, time={"end": 2})) == []


def test_text_that_differs_late_is_said_from_there() -> None:
    """The place is found by halving, not letter by letter; what follows it is what comes again."""
    translator = opened()
    translator.feed(delta("a" * 1_000_000 + "b" * 10))
    gap, rest = translator.feed(updated(type="text", text="a" * 1_000_000 + "c" * 11, time={"end": 2}))
    assert gap.type is ChunkType.GAP
    assert rest.data == "c" * 11


@pytest.mark.parametrize(("finish", "words"), [("length", "model_config.max_tokens"), ("content-filter", "withheld")])
def test_an_answer_that_is_not_whole_is_no_answer(finish: str, words: str) -> None:
    """OpenCode ends the turn without an error; half an answer must not pass for one. Earlier messages do not count."""
    translator = opened()
    message = {"id": "msg_1", "sessionID": "ses_1", "role": "assistant", "time": {"completed": 1}, "finish": finish}
    translator.feed({"type": "message.updated", "properties": {"info": message}})
    assert translator.unfinished is not None
    assert translator.unfinished[0] is Reason.MODEL_ERROR
    assert words in translator.unfinished[1]
    later = {**message, "id": "msg_2", "finish": "stop"}
    translator.feed({"type": "message.updated", "properties": {"info": later}})
    assert translator.unfinished is None
    translator.begin_turn()
    assert translator.unfinished is None


def test_a_server_that_names_parts_without_end_is_over_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be in the agent's hands: what is remembered of it has a bound, in parts and in text of no message."""
    monkeypatch.setattr(untrusted_json, "AGENT_PARTS", 3)
    monkeypatch.setattr(untrusted_json, "AGENT_UNATTRIBUTED", 100)
    translator = opened()
    for number in range(2):
        translator.feed(updated(id=f"prt_more_{number}", type="text", text=""))
    with pytest.raises(untrusted_json.OverLimit, match="more than 3"):
        translator.feed(updated(id="prt_too_many", type="text", text=""))
    with pytest.raises(untrusted_json.OverLimit, match="100 characters"):
        opened().feed(updated(id="prt_9", messageID="msg_9", type="text", text="z" * 101))


def test_what_nobody_reads_of_a_message_is_not_kept() -> None:
    """No limit of the output bounds a user's text, or words about a message: of each 10 MB, next to nothing stays."""
    translator, ids = opened(), iter(range(100))
    named = {"id": "msg_u", "sessionID": "ses_1", "role": "user", "time": {}}
    tracemalloc.start()
    try:
        translator.feed({"type": "message.updated", "properties": {"info": named}})
        for ended in ({}, {"end": 2}) * 5:
            part = {"id": f"prt_u{next(ids)}", "messageID": "msg_u", "type": "text", "time": ended}
            assert translator.feed(updated(**part, text="z" * 1_000_000)) == []
        for role, finish in (("assistant", "f" * 1_000_000), ("r" * 1_000_000, "")) * 5:
            info = {**named, "id": f"msg_{next(ids)}", "role": role, "finish": finish}
            translator.feed({"type": "message.updated", "properties": {"info": info}})
        del info, part, role, finish
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000
    with pytest.raises(untrusted_json.OverLimit, match="id of 1000 characters"):
        translator.feed(updated(id="prt_more", messageID="m" * 1000, type="text", text=""))
