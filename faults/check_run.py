"""What must hold of a run as a whole, so that it cannot pass for want of anything to judge. Pure.

1. Under each fault executions were under way. Of a round of all kinds some completed, and some of the run in any case.
2. What failed had a reason to: one that is natural under the fault it was submitted under, or under one that came
   before it ended. A hostile execution may have reasons of its own.
3. Without the history's database or function executions go on: some end meanwhile, the gateway answers every call about
   one execution, and it says that the history is away or behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from faults.check import TERMINAL, Violation
from faults.history_reader import History, Story
from faults.hostile_load import HOSTILE

#: As many executions as the load has kinds.
ROUND = 8
#: Reasons by victim, or by victim and fault. Whatever else fails was not hurt, and must not fail.
NATURAL: Mapping[str, frozenset[str]] = {
    "execute": frozenset({"worker_lost", "agent_error"}),
    # Whoever is cut off reaches no model either.
    "execute:cut": frozenset({"model_error"}),
    # A worker that cannot renew its lease is as good as lost.
    "nats": frozenset({"worker_lost"}),
    # Everybody who uses S3 is started anew, with another clock: workers, too.
    "s3:skew": frozenset({"worker_lost"}),
    "model": frozenset({"model_error"}),
    "model:creds": frozenset({"model_auth"}),
}
#: The real agent and the scripted one do not read each other's conversations, and chance says which takes a turn.
_OTHER_AGENT = ("OpenCode did not import the session's", "OpenCode does not have the session's")
_ALL = "*"
#: Parts of which no execution needs any, and what of the gateway's words tells that it is hurt.
_HISTORY = {"database": "away", "history": "behind"}
#: Faults that take it away for so many seconds that executions end meanwhile, and clients hear of it.
_GONE, _LONG = ("stop", "cut", "creds"), 8.0


def natural(pair: str) -> frozenset[str]:
    """Why executions may fail under `victim:fault`; of nodes of a cluster the number does not matter."""
    victim, _, fault = pair.partition(":")
    victim = victim.partition("-")[0]
    return NATURAL.get(victim, frozenset()) | NATURAL.get(f"{victim}:{fault}", frozenset())


def wrong_of_run(history: History, pairs: Sequence[Mapping[str, Any]]) -> list[Violation]:
    """Everything that is wrong. `pairs`: in the order of the run, each with name, project, and when it `began`."""
    return [*_idle(history, pairs), *_unreasonable(history, pairs), *_stopped(history, pairs)]


def _idle(history: History, pairs: Sequence[Mapping[str, Any]]) -> Iterator[Violation]:
    states = [(story.project, (story.record or {}).get("state")) for story in history.stories.values()]
    if not any(state == "completed" for _, state in states):
        yield Violation("load", _ALL, _ALL, "of the whole run nothing completed")
    for pair in pairs:
        ended = [state for project, state in states if project == pair["project"]]
        if not ended:
            yield Violation("load", pair["project"], _ALL, "nothing was under way")
        elif len(ended) >= ROUND and "completed" not in ended:
            yield Violation("load", pair["project"], _ALL, f"of {len(ended)} executions none completed")


def _unreasonable(history: History, pairs: Sequence[Mapping[str, Any]]) -> Iterator[Violation]:
    numbers = {pair["project"]: number for number, pair in enumerate(pairs)}
    for _, story in sorted(history.stories.items()):
        if (story.record or {}).get("state") != "failed":
            continue
        at, message = _failure(story)
        since = pairs[numbers[story.project] :] if story.project in numbers else []
        allowed = frozenset[str]().union(*(natural(pair["pair"]) for pair in since if pair["began"] <= at))
        reason = (story.record or {}).get("reason")
        if reason == "agent_error" and _of_session(story) and message.startswith(_OTHER_AGENT):
            continue
        if reason not in allowed and story.project != HOSTILE:
            yield Violation("reason", story.project, story.execution, f"failed as {reason}: {message}")


def _stopped(history: History, pairs: Sequence[Mapping[str, Any]]) -> Iterator[Violation]:
    for pair in pairs:
        victim, _, fault = pair["pair"].partition(":")
        if victim not in _HISTORY:
            continue
        stories = [story for story in history.stories.values() if story.project == pair["project"]]
        until = pair["began"] + pair["seconds"]
        ends = [fact.at for story in stories for fact in story.facts if fact.what in TERMINAL]
        if pair["seconds"] >= _LONG and not any(pair["began"] < at < until for at in ends):
            yield Violation("history", pair["project"], _ALL, "no execution ended while it was hurt")
        for at, call in pair["refused"]:
            if at < until:  # later ones may be of the next fault
                yield Violation("history", pair["project"], _ALL, f"the gateway refused {call}")
        said = pair["gateway"]
        if fault in _GONE and pair["seconds"] >= _LONG and not said[_HISTORY[victim]]:
            yield Violation("history", pair["project"], _ALL, f"the gateway did not say so: {said}")
        if said["odd"]:
            yield Violation("history", pair["project"], _ALL, f"{said['odd']} lists neither came nor said why")


def _of_session(story: Story) -> bool:
    return any(command.what == "submit" and command.data.get("session_id") for command in story.commands)


def _failure(story: Story) -> tuple[float, str]:
    end = next((fact for fact in story.facts if fact.what in TERMINAL), None)
    return (end.at, str(end.data.get("message", ""))) if end else (0.0, "")
