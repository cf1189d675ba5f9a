"""The checker of the fault suite: a good history passes, each way to be broken is found by the rule that is for it."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from operator import setitem
from typing import Any

import pytest

from faults.check import Ledger, outcomes, violations
from faults.fixed_answer_model import STREAMED
from faults.history_reader import Fact, History, Letter, SessionStory, Story

ID = "11111111-1111-1111-1111-111111111111"
KEY = f"p/{ID}"
STEPS = [{"write": {"path": "a", "content": "b"}}, {"text": "w0 "}, {"text": "w1 "}, {"text": "wend"}]


def chunk(seq: int, data: str, type: str = "text", attempt: int = 1) -> dict[str, Any]:
    return {"seq": seq, "type": type, "data": data, "attempt": attempt}


def packed(chunks: list[dict[str, Any]]) -> bytes:
    return gzip.compress(b"".join(json.dumps(each).encode() + b"\n" for each in chunks))


def artifact(name: str, content: bytes) -> dict[str, Any]:
    return {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def good() -> History:
    """One execution that completed, as it is kept."""
    output = [chunk(1, "started", "status"), chunk(2, "w0 w"), chunk(3, "1 wend"), chunk(4, "completed", "status")]
    events = b'{"type":"dev.ocf.task.submit.v1"}\n{"type":"dev.ocf.task.completed.v1"}\n'
    objects = {"output.ndjson.gz": packed(output), "events.ndjson": events, "workspace.patch": b"+one\n"}
    manifest = {
        "terminal_event": "end",
        "chunks": {"count": 4},
        "objects": [artifact(name, content) for name, content in objects.items()],
    }
    story = Story(
        "p",
        ID,
        commands=[Fact("submit", "s", {"prompt": f"[[steps]] {json.dumps(STEPS)}"}), Fact("execute", "e", {})],
        facts=[
            Fact("accepted", "a", {}),
            Fact("started", "b", {}),
            Fact("completed", "end", {"last_sequence": 4}),
            Fact("archived", "c", {}),
        ],
        output=output,
        record={"state": "completed", "archived": True},
        objects={**objects, "manifest.json": json.dumps(manifest).encode()},
    )
    return History({KEY: story}, [], rows={KEY: rows()}, rebuilt={KEY: rows()})


def rows() -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the execution."""
    events = [{"event_id": name, "type": f"dev.ocf.task.{name}.v1"} for name in ("a", "b", "end")]
    return {"task_executions": [{"status": "completed", "archived": True}], "execution_events": events}


def cleaned() -> History:
    """One that was deleted."""
    return History({KEY: Story("p", ID, facts=[Fact("cleaned", "c", {})])})


def manifest(story: Story, **changes: Any) -> None:
    """Change the manifest."""
    story.objects["manifest.json"] = json.dumps({**json.loads(story.objects["manifest.json"]), **changes}).encode()


def test_a_good_history_passes() -> None:
    """Completed, archived, complete: nothing is wrong, and it is counted as what it is."""
    ledger = Ledger(accepted={KEY})
    assert violations(good(), ledger) == []
    assert outcomes(good(), "p") == {"completed": 1}


def test_allowed_histories_pass() -> None:
    """No fault: two chunks that changed places, one that is there twice, data that no message holds, a deletion."""
    history = good()
    output = history.stories[KEY].output
    output[1], output[2] = output[2], output[1]
    output.append(dict(output[0]))
    history.stories[KEY].objects["data/s.json"] = b"{}"
    assert violations(history, Ledger()) == []
    assert violations(cleaned(), Ledger(accepted={KEY}, deleted={KEY})) == []
    assert outcomes(cleaned(), "p") == {"deleted": 1}


def _drop(name: str) -> Callable[[Story], None]:
    return lambda story: story.facts.__delitem__(next(i for i, f in enumerate(story.facts) if f.what == name))


def _record(**changes: Any) -> Callable[[Story], None]:
    def change(story: Story) -> None:
        story.record = {**(story.record or {}), **changes}

    return change


def _lose_word(story: Story) -> None:
    story.output[1] = chunk(2, "w")
    rewritten(story)


def rewritten(story: Story) -> None:
    """The archive follows the stream, so that only the stream's own fault is left."""
    story.objects["output.ndjson.gz"] = packed(story.output)
    claimed = [artifact(name, content) for name, content in story.objects.items() if name != "manifest.json"]
    manifest(story, objects=claimed, chunks={"count": len(story.output)})


BROKEN: dict[str, tuple[str, Callable[[Story], Any]]] = {
    "never ended": ("end", _drop("completed")),
    "ended twice": ("end", lambda story: story.facts.append(Fact("failed", "x", {"last_sequence": 4}))),
    "ended twice the same way": ("end", lambda story: story.facts.append(Fact("completed", "x", {}))),
    "the record says otherwise": ("end", _record(state="failed")),
    "the record is gone": ("end", lambda story: setattr(story, "record", None)),
    "a fact is still boxed": ("end", _record(outbox=[{"type": "x"}])),
    "accepted twice": ("end", lambda story: story.facts.append(Fact("accepted", "x", {}))),
    "a chunk is missing": ("output", lambda story: story.output.pop(1)),
    "a chunk was said twice, differently": ("output", lambda story: story.output.append(chunk(2, "other"))),
    "it spoke after its end": ("output", lambda story: story.output.append(chunk(5, "still here"))),
    "a word is lost and no gap stated": ("output", _lose_word),
    "attempts spoke at once": (
        "output",
        lambda story: setitem(story.output, 0, {**story.output[0], "attempt": 2}),
    ),
    "not archived": ("archive", _record(archived=False)),
    "archived, and not said": ("archive", _drop("archived")),
    "no manifest": ("archive", lambda story: story.objects.pop("manifest.json")),
    "an object is missing": ("archive", lambda story: story.objects.pop("workspace.patch")),
    "an object is damaged": ("archive", lambda story: story.objects.update({"workspace.patch": b"+two\n"})),
    "an object nobody claims": ("archive", lambda story: story.objects.update({"stray": b""})),
    "another terminal event in the manifest": ("archive", lambda story: manifest(story, terminal_event="x")),
    "another count in the manifest": ("archive", lambda story: manifest(story, chunks={"count": 3})),
    "the archive lacks a chunk": ("archive", lambda story: story.objects.update(_short(story))),
    "a lease is left": ("lease", lambda story: setattr(story, "lease", True)),
}


def _short(story: Story) -> dict[str, bytes]:
    content = packed(story.output[:-1])
    others = [artifact(n, c) for n, c in story.objects.items() if n not in ("manifest.json", "output.ndjson.gz")]
    manifest(story, objects=[*others, artifact("output.ndjson.gz", content)])
    return {"output.ndjson.gz": content}


@pytest.mark.parametrize("name", BROKEN)
def test_each_way_to_be_broken_is_found(name: str) -> None:
    """A history that is broken in one way is found by the rule for it."""
    rule, break_it = BROKEN[name]
    history = good()
    break_it(history.stories[KEY])
    assert rule in {found.rule for found in violations(history, Ledger(accepted={KEY}))}


@pytest.mark.parametrize("left", ["record", "lease", "output", "fences", "objects", "commands", "facts"])
def test_leftovers_of_a_deletion_are_found(left: str) -> None:
    """A deleted execution of which anything is left."""
    history = cleaned()
    story = history.stories[KEY]
    kept = good().stories[KEY]
    setattr(story, left, {"lease": True, "fences": 1}.get(left) or getattr(kept, left))
    if left == "facts":
        story.facts.append(Fact("cleaned", "c", {}))
    found = violations(history, Ledger(deleted={KEY}))
    assert [each.rule for each in found if "left" in each.what or "said once" in each.what] == ["deleted"]


def test_answers_to_clients_are_compared_with_the_outcome() -> None:
    """A submit that was acknowledged and left no trace; a deletion that was never carried out."""
    assert [found.rule for found in violations(History(), Ledger(accepted={KEY}))] == ["lost"]
    assert [found.rule for found in violations(good(), Ledger(deleted={KEY}))] == ["deleted"]


def test_a_deletion_that_nobody_asked_for_is_found() -> None:
    """One that was asked for, acknowledged or not, is none."""
    (found,) = violations(cleaned(), Ledger(accepted={KEY}))
    assert (found.rule, found.what) == ("deleted", "deleted, and nobody asked")
    assert violations(cleaned(), Ledger(accepted={KEY}, asked_to_delete={KEY})) == []


def test_accepted_execution_must_not_be_rejected() -> None:
    """A client that was told yes; one that was told nothing may hear no."""
    history = History({KEY: Story("p", ID, facts=[Fact("rejected", "r", {})], record={"state": "rejected"})})
    written = {"task_executions": [{"status": "rejected"}], "execution_events": [{"event_id": "r"}]}
    history.rows = history.rebuilt = {KEY: written}
    assert [found.rule for found in violations(history, Ledger(accepted={KEY}))] == ["end"]
    assert violations(history, Ledger()) == []


def silent(*said: str) -> History:
    """A completed talk of which that is all that was said."""
    history = good()
    story = history.stories[KEY]
    texts = [*said, "", ""][:2]
    story.output[1:3] = [chunk(2, texts[0]), chunk(3, texts[1])]
    rewritten(story)
    return history


def test_a_talk_that_lost_all_its_words_is_found() -> None:
    """Silence is excused by nothing but the sign of the real agent, which says what the model streams to it."""
    for history in (silent(), silent("The offline scripted model has answered.")):
        assert [found.rule for found in violations(history, Ledger())] == ["output"]
    assert violations(silent(STREAMED[:4], STREAMED[4:] + "The offline scripted model has answered."), Ledger()) == []
    assert [found.rule for found in violations(silent(STREAMED, "w0 "), Ledger())] == ["output"]


STALE: dict[str, tuple[str, Callable[[History], Any]]] = {
    "no row": ("its rows are []", lambda history: history.rows[KEY].pop("task_executions")),
    "a row of the past": (
        "[{'status': 'running'}]",
        lambda h: h.rows[KEY].update(task_executions=[{"status": "running"}]),
    ),
    "an event is missing": (
        "facts without a row: ['started']",
        lambda history: history.rows[KEY]["execution_events"].pop(1),
    ),
    "a column differs": (
        "archived': False",
        lambda history: history.rows[KEY]["task_executions"][0].update(archived=False),
    ),
    "a row of nobody": ("labels has", lambda history: history.rows.update({"p/x": {"labels": [{"name": "a"}]}})),
    "a session's row is lost": (
        "its session is there",
        lambda history: history.sessions.update({"p/s": SessionStory("p", "s", facts=["created"], record=OPEN)}),
    ),
    "a session's row stays": (
        "its session is not there",
        lambda history: (
            history.sessions.update({"p/s": SessionStory("p", "s", facts=["destroyed"])}),
            [rows.update({"p/s": {"sessions": []}}) for rows in (history.rows, history.rebuilt)],
        ),
    ),
}
OPEN = {"state": "open", "queue": [], "executions": []}


@pytest.mark.parametrize("name", STALE)
def test_rows_that_are_not_those_of_the_facts_are_found(name: str) -> None:
    """Missing, old, strange, or of another content than a rebuild gives."""
    what, change = STALE[name]
    history = good()
    change(history)
    found = violations(
        history, Ledger(sessions={"p/s": []}, asked_to_destroy={"p/s"}) if "p/s" in history.sessions else Ledger()
    )
    assert any(each.rule == "history" and what in each.what for each in found), found


def test_rows_of_a_deleted_execution_are_found() -> None:
    """Also where a rebuild would leave them."""
    history = cleaned()
    history.rows = history.rebuilt = {KEY: rows()}
    (found,) = violations(history, Ledger(deleted={KEY}))
    assert (found.rule, found.what) == ("history", "deleted, and left rows in ['execution_events', 'task_executions']")


def test_dead_letters() -> None:
    """One that nobody knows of is wrong; one that was sent on purpose is wanted, and missed where it is not there."""
    known = f"ocf.cmd.cancel.p.{ID}"
    letter = Letter("cancel", known, "no event")
    assert violations(History({}, [letter]), Ledger(poison={known})) == []
    assert [found.rule for found in violations(History({}, [letter]), Ledger())] == ["letter"]
    fact = Letter("archive", f"ocf.evt.p.{ID}.completed", "no")
    assert [found.project for found in violations(History({}, [fact]), Ledger())] == ["p"]
    assert [found.rule for found in violations(History(), Ledger(poison={known}))] == ["letter"]


def spoken(*at: float) -> History:
    """One that was cancelled at 100, and whose agent was heard at these times."""
    history = good()
    story = history.stories[KEY]
    story.commands.append(Fact("cancel", "x", {}, 100.0))
    words = [chunk(seq, "", "text") for seq in range(5, 5 + len(at))]
    story.output += words
    story.kept_at = {each["seq"]: when for each, when in zip(words, at, strict=True)}
    story.facts[2] = Fact("completed", "end", {"last_sequence": 4 + len(at)})
    manifest(story, chunks={"count": 4 + len(at)})
    rewritten(story)
    return history


def test_an_agent_that_goes_on_after_a_cancel_is_found() -> None:
    """Ten seconds of words: the cancel was lost. A few words on its way, or after its worker was cut off, are none."""
    steady = [100.5 + number / 2 for number in range(20)]
    (found,) = violations(spoken(*steady), Ledger())
    assert (found.rule, found.what) == ("cancel", "its agent spoke for 9.5 s after the cancel was kept")
    for fine in ([99.0, 100.1, 101.5], [*steady[:2], *(when + 15 for when in steady[:3])], [98.0, 99.9]):
        assert violations(spoken(*fine), Ledger()) == []


def test_words_of_parts_that_were_read_whole_are_told_apart() -> None:
    """OpenCode trims a part that has ended: its words stand at the next part's without a space."""
    history = good()
    whole = [chunk(2, "w0 w1") | {"detail": {"part_id": "a"}}, chunk(3, "wend") | {"detail": {"part_id": "b"}}]
    story = history.stories[KEY]
    story.output[1:3] = whole
    story.objects["output.ndjson.gz"] = packed(story.output)
    assert [one for one in violations(history, Ledger()) if "scripted" in one.what] == []


def test_a_stated_gap_excuses_lost_words() -> None:
    """What could not be kept is said in a `gap` chunk: then words may be missing."""
    history = good()
    story = history.stories[KEY]
    story.output[1] = chunk(2, "the rest was not kept", "gap")
    rewritten(story)
    assert violations(history, Ledger()) == []
