"""The one checker: what must hold of every execution, however the system was hurt. Pure: a history in, violations out.

1. Every accepted execution has exactly one terminal event, and its record says the same.
2. Output is gapless from 1 to the number that the terminal event names, each number said at least once and the same
   each time, nothing after it, and what the agent said last is all there unless a `gap` chunk says otherwise.
3. The archive equals the stream, object by object, and its manifest claims exactly what is there.
4. Nothing is left of a lease, of an outbox, of a deleted execution; nothing is deleted that nobody asked to delete.
5. No dead letter but those that were sent on purpose.
6. An agent whose cancel is kept falls silent within seconds, unless its worker is cut off.
7. Sessions: see `faults.check_sessions`. 8. The history's database: see `faults.check_rows`.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from faults.check_objects import wrong_objects
from faults.check_rows import wrong_rows
from faults.check_sessions import wrong_of_session
from faults.fixed_answer_model import STREAMED
from faults.history_reader import Fact, History, Letter, Story

TERMINAL = ("completed", "failed", "cancelled", "timed_out")
#: A worker that did not hear a cancel reads it in the stream every two seconds, and waits as long for an answer.
SILENT_WITHIN = 6.0
#: Scripted words come twice a second and faster.
BROKEN = 2.0
_STEPS = "[[steps]]"
#: Words of a scripted talk carry their number, so that a lost one is missed: `w0`, `w1` … `wend`.
_WORD = re.compile(r"\bw(?:\d+|end)\b")


@dataclass(frozen=True)
class Violation:
    """Something that must not be. `rule` is one word of the list above, `project` tells which fault it was under."""

    rule: str
    project: str
    execution: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.project}/{self.execution}: {self.what}"


@dataclass
class Ledger:
    """What clients were told, to find what the streams themselves have lost.

    `accepted` and `deleted` are `project/execution` whose submit or deletion was acknowledged; `poison` are subjects on
    which something was sent that must become a dead letter. `sessions` are `project/session` that were created, with
    the executions that were accepted as their turns; `destroyed` are those whose destruction was acknowledged.
    `asked_to_delete` and `asked_to_destroy` are noted before the wish is sent: it may be carried out unacknowledged.
    """

    accepted: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    poison: set[str] = field(default_factory=set)
    sessions: dict[str, list[str]] = field(default_factory=dict)
    destroyed: set[str] = field(default_factory=set)
    asked_to_delete: set[str] = field(default_factory=set)
    asked_to_destroy: set[str] = field(default_factory=set)


def violations(history: History, ledger: Ledger) -> list[Violation]:
    """Everything that is wrong, in the order of the executions' names; empty is good."""
    found = [
        Violation("lost", *_pair(key), "its submit was acknowledged, and nothing of it is left")
        for key in sorted(ledger.accepted - set(history.stories))
    ]
    for key, story in sorted(history.stories.items()):
        if _poisoned(story, ledger.poison):
            continue
        cleaned = story.first("cleaned") is not None
        if key in ledger.deleted and not cleaned:
            found.append(Violation("deleted", story.project, story.execution, "its deletion was never carried out"))
        if cleaned and key not in ledger.deleted | ledger.asked_to_delete:
            found.append(Violation("deleted", story.project, story.execution, "deleted, and nobody asked"))
        if key in ledger.accepted and _rejected(story):
            found.append(
                Violation("end", story.project, story.execution, "its submit was accepted, and it is rejected")
            )
        rules = _CLEANED if cleaned else _KEPT
        found += [Violation(name, story.project, story.execution, what) for name, rule in rules for what in rule(story)]
    found += [Violation("history", *_pair(key), what) for key, what in wrong_rows(history)]
    return [*found, *_sessions(history, ledger), *_letters(history.letters, ledger.poison)]


def _sessions(history: History, ledger: Ledger) -> Iterator[Violation]:
    for key in sorted({*ledger.sessions, *history.sessions}):
        project, session = _pair(key)
        turns = [history.story(project, execution) for execution in ledger.sessions.get(key, [])]
        story = history.session(project, session)
        gone = "destroyed" in story.facts
        if gone and key not in ledger.destroyed | ledger.asked_to_destroy:
            yield Violation("session", project, session, "destroyed, and nobody asked")
        found = wrong_of_session(story, turns, destroyed=gone or key in ledger.destroyed)
        for what in found:
            yield Violation("session", project, session, what)


def outcomes(history: History, project: str) -> dict[str, int]:
    """How the executions of a project ended: state, with the reason of a failure; `deleted` for what is cleaned up."""
    ended: Counter[str] = Counter()
    for story in history.stories.values():
        if story.project == project and (story.record or story.first("cleaned")):
            record = story.record or {"state": "deleted"}
            ended[f"{record['state']}{':' + record['reason'] if record.get('reason') else ''}"] += 1
    return dict(sorted(ended.items()))


def _poisoned(story: Story, poison: Collection[str]) -> bool:
    return any(subject.endswith(f".{story.project}.{story.execution}") for subject in poison)


def _rejected(story: Story) -> bool:
    return story.first("rejected") is not None or (story.record or {}).get("state") == "rejected"


def _ends(story: Story) -> list[Fact]:
    return [fact for fact in story.facts if fact.what in TERMINAL]


def _one_end(story: Story) -> Iterator[str]:
    if story.first("rejected") is not None and story.record is not None and story.record["state"] == "rejected":
        if ends := _ends(story):
            yield f"rejected, and ended {[end.what for end in ends]}"
        return
    ends = _ends(story)
    if len(ends) != 1:
        yield f"{len(ends)} terminal events {[end.what for end in ends]}"
    if story.record is None:
        yield "no record"
        return
    state = story.record["state"]
    if ends and state != ends[0].what:
        yield f"the record says {state}, the terminal event {ends[0].what}"
    if story.record.get("outbox"):
        yield "its record still has an outbox"
    accepted = [fact for fact in story.facts if fact.what == "accepted"]
    if len(accepted) != 1 and state in TERMINAL:
        yield f"accepted {len(accepted)} times"


def _gapless(story: Story) -> Iterator[str]:
    said: dict[int, Mapping[str, Any]] = {}
    for chunk in story.output:
        number = chunk["seq"]
        if said.setdefault(number, chunk) != chunk:
            yield f"chunk {number} was said twice, differently"
    ends = _ends(story)
    last = ends[0].data.get("last_sequence", 0) if ends else max(said, default=0)
    if missing := sorted(set(range(1, last + 1)) - set(said)):
        yield f"chunks {missing[:5]} of {last} are missing"
    if after := sorted(number for number in said if number > last):
        yield f"chunks {after[:5]} were said after the end, which names {last}"
    attempts = [said[number].get("attempt", 1) for number in sorted(said)]
    if attempts != sorted(attempts):
        yield f"an earlier attempt spoke after a later one: {attempts}"
    yield from _all_said(story)


def _obedient(story: Story) -> Iterator[str]:
    """Whether the agent fell silent after a cancel. Only words in an unbroken flow count, by the time that the server
    kept them: between others the worker may have been cut off, and could not hear it."""
    asked = min((command.at for command in story.commands if command.what == "cancel"), default=None)
    if asked is None:
        return
    texts = [chunk["seq"] for chunk in story.output if chunk["type"] == "text"]
    later = sorted(at for seq in set(texts) if (at := story.kept_at.get(seq, 0.0)) > asked)
    longest = began = 0.0
    for before, at in itertools.pairwise([0.0, *later]):
        began = began if at - before < BROKEN else at
        longest = max(longest, at - began)
    if longest > SILENT_WITHIN:
        yield f"its agent spoke for {longest:.1f} s after the cancel was kept"


def _all_said(story: Story) -> Iterator[str]:
    """Whether a completed scripted talk has all its words. The real agent says what the model streams, and none."""
    if not story.record or story.record["state"] != "completed":
        return
    last = story.newest_attempt()
    text = _text(last)
    spoken = _WORD.findall(text)
    if STREAMED in text and not spoken:
        return
    if spoken != words(story) and not any(chunk["type"] == "gap" for chunk in last):
        attempts = sorted({chunk.get("attempt", 1) for chunk in story.output})
        ending = [(chunk["seq"], chunk["type"], chunk["data"][:60], chunk.get("timestamp")) for chunk in last[-8:]]
        yield f"said {spoken}, scripted {words(story)}, and no gap is stated; attempts {attempts}, its end {ending}"


def _text(chunks: Iterable[Mapping[str, Any]]) -> str:
    """Return the text of the chunks, a space between two parts.

    OpenCode trims a part that has ended, and a worker that was stopped meanwhile reads the whole part.
    """
    said = [((chunk.get("detail") or {}).get("part_id"), chunk["data"]) for chunk in chunks if chunk["type"] == "text"]
    parts = itertools.groupby(said, key=lambda one: one[0])
    return " ".join("".join(data for _, data in part) for _, part in parts)


def words(story: Story) -> list[str]:
    """What the script of its prompt says, as numbered words."""
    submit = next((command for command in story.commands if command.what == "submit"), None)
    prompt = str((submit.data if submit else {}).get("prompt", ""))
    if not prompt.startswith(_STEPS):
        return []
    steps = json.loads(prompt.removeprefix(_STEPS))
    return [word for step in steps if "text" in step for word in _WORD.findall(step["text"])]


def _archive(story: Story) -> Iterator[str]:
    if not _ends(story):
        return  # said already; there is nothing to archive
    if not (story.record or {}).get("archived"):
        yield "not archived"
        return
    if len([fact for fact in story.facts if fact.what == "archived"]) != 1:
        yield "not said once to be archived"
    if "manifest.json" not in story.objects:
        yield "no manifest"
        return
    manifest = json.loads(story.objects["manifest.json"])
    # Below `data/` lies the data of large commands; one whose publishing failed leaves it there.
    unnamed = ("manifest.json", "data/")
    there = {name: content for name, content in story.objects.items() if not name.startswith(unnamed)}
    yield from wrong_objects(there, manifest["objects"], "the manifest")
    if manifest["terminal_event"] != _ends(story)[0].id:
        yield "the manifest names another terminal event"
    said = {chunk["seq"]: chunk for chunk in story.output}
    if manifest["chunks"]["count"] != len(said):
        yield f"the manifest counts {manifest['chunks']['count']} chunks, the stream has {len(said)}"
    if "output.ndjson.gz" in story.objects:
        kept = [json.loads(line) for line in gzip.decompress(story.objects["output.ndjson.gz"]).splitlines()]
        if kept != [said[number] for number in sorted(said)]:
            yield "its archived output is not that of the stream"
    if "events.ndjson" in story.objects:
        types = [json.loads(line).get("type", "") for line in story.objects["events.ndjson"].splitlines()]
        ends = [name for name in types if name.split(".")[-2:-1] and name.split(".")[-2] in TERMINAL]
        if len(ends) != 1:
            yield f"its archived events hold {len(ends)} terminal ones"


def _no_lease(story: Story) -> Iterator[str]:
    if story.lease:
        yield "its lease is still there"


def _gone(story: Story) -> Iterator[str]:
    left: dict[str, object] = {
        "record": int(story.record is not None),
        "lease": int(story.lease),
        "output": len(story.output),
        "fences": story.fences,
        "objects": sorted(story.objects),
        "commands": [command.what for command in story.commands],
        "facts": [fact.what for fact in story.facts if fact.what != "cleaned"],
    }
    if any(left.values()):
        yield f"deleted, and left { ({name: found for name, found in left.items() if found}) }"
    if len([fact for fact in story.facts if fact.what == "cleaned"]) != 1:
        yield "not said once to be cleaned up"


def _letters(letters: Sequence[Letter], poison: Collection[str]) -> Iterator[Violation]:
    for letter in letters:
        if letter.subject not in poison:
            what = f"a dead letter of {letter.consumer} from {letter.subject}: {letter.reason}"
            yield Violation("letter", *_ids(letter.subject), what)
    for subject in sorted(set(poison) - {letter.subject for letter in letters}):
        yield Violation("letter", *_ids(subject), f"what was sent to {subject} became no dead letter")


def _pair(key: str) -> tuple[str, str]:
    project, _, execution = key.partition("/")
    return project, execution


def _ids(subject: str) -> tuple[str, str]:
    tokens = subject.split(".")
    return (tokens[-2], tokens[-1]) if tokens[1:2] == ["cmd"] else (tokens[2], tokens[3])


_KEPT = (("end", _one_end), ("output", _gapless), ("cancel", _obedient), ("archive", _archive), ("lease", _no_lease))
_CLEANED = (("deleted", _gone),)
