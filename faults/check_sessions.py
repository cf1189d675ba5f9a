"""What must hold of sessions, however the system was hurt.

1. A session that was created is there, its queue is empty, and it knows every turn that was accepted, in order.
2. One turn at a time: nothing of a turn is said after the first word of a later one.
3. No turn's work is lost, none is done twice: a completed turn finds in the workspace what the earlier ones left.
4. In S3 lies what the record names, and nothing else.
5. Nothing is left of a session that was destroyed, but the fact that says so.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from faults.check_objects import wrong_objects
from faults.fixed_answer_model import STREAMED
from faults.history_reader import SessionStory, Story

#: What a turn of the load says of the turns whose work it finds, its own counted.
_KEPT = re.compile(r"\bkept (\d+)\b")


def wrong_of_session(session: SessionStory, turns: Sequence[Story], *, destroyed: bool) -> Iterator[str]:
    """Everything that is wrong with one session. `turns`: those that were accepted, in the order of their submits."""
    if destroyed:
        yield from _gone(session)
        return
    record = session.record
    if record is None:
        yield "its record is lost"
        return
    if record["state"] != "open" or record["queue"]:
        yield f"it is {record['state']}, and {record['queue']} wait"
    if record["executions"] != [turn.execution for turn in turns]:
        yield f"it knows the turns {record['executions']}, accepted were {[turn.execution for turn in turns]}"
    yield from _in_turn(turns)
    yield from _continued(turns)
    yield from _saved(session, record, turns)


def _in_turn(turns: Sequence[Story]) -> Iterator[str]:
    for before, after in itertools.pairwise(turn for turn in turns if turn.kept_at):
        if (late := max(before.kept_at.values()) - min(after.kept_at.values())) > 0:
            yield f"turn {before.execution} spoke {late:.1f} s after the first word of {after.execution}"


def _continued(turns: Sequence[Story]) -> Iterator[str]:
    ended = kept = 0
    for turn in turns:
        completed = (turn.record or {}).get("state") == "completed"
        chunks = turn.newest_attempt()
        said = "".join(str(chunk["data"]) for chunk in chunks)
        found = [int(number) for number in _KEPT.findall(said)]
        # One that failed or was lost may have left its work, or not; nor does the real agent do what the script says.
        if completed and found and not kept < found[-1] <= ended + 1:
            yield f"turn {turn.execution} found the work of {found[-1] - 1} turns; {kept} had completed before it"
        if completed and not found and STREAMED not in said and not any(chunk["type"] == "gap" for chunk in chunks):
            yield f"turn {turn.execution} does not say what it found"
        ended, kept = ended + 1, kept + (completed and bool(found))


def _saved(session: SessionStory, record: Mapping[str, object], turns: Sequence[Story]) -> Iterator[str]:
    saved = record.get("saved")
    named = (
        [saved[part] for part in ("conversation", "workspace") if saved.get(part)] if isinstance(saved, dict) else []
    )
    yield from wrong_objects(session.objects, named, "its record")
    if turns and (turns[-1].record or {}).get("state") == "completed":
        last = saved.get("execution_id") if isinstance(saved, dict) else None
        if last != turns[-1].execution:
            yield f"its last turn {turns[-1].execution} completed, and the state saved is that of {last}"


def _gone(session: SessionStory) -> Iterator[str]:
    left: dict[str, object] = {
        "record": int(session.record is not None),
        "objects": sorted(session.objects),
        "commands": session.commands,
        "facts": [what for what in session.facts if what != "destroyed"],
    }
    if any(left.values()):
        yield f"destroyed, and left { ({name: found for name, found in left.items() if found}) }"
    if session.facts.count("destroyed") != 1:
        yield "not said once to be destroyed"
