"""The catalogue: every event type with its payload, subject and publishers (one table).

`schemas/`, `schemas/asyncapi.yaml` and `docs/reference/events.md` are generated from `TYPES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ocf.events import command_payloads, fact_payloads, output, subjects
from ocf.events.base_model import Model
from ocf.events.lifecycle import TERMINAL, State

Kind = Literal["cmd", "evt", "out"]
ModelClass = type[Model]


@dataclass(frozen=True)
class EventType:
    """One event type. `verb` is the subject's verb (cmd) or its last token (evt)."""

    type: str
    kind: Kind
    verb: str
    data: ModelClass
    published_by: str
    entity: Literal["execution", "session"] = "execution"

    @property
    def from_callers(self) -> bool:
        """Return whether clients publish this type.

        Then an unknown field is an error. In an event that functions publish, it belongs to a newer release.
        """
        return self.kind == "cmd" and self.published_by != "submit"

    def subject(self, project: str, entity: str) -> str:
        """Return the NATS subject of an event of this type."""
        if self.kind == "cmd":
            verb = "session" if self.entity == "session" else self.verb
            return subjects.command(verb, project, entity)
        if self.kind == "evt":
            return subjects.fact(project, entity, self.verb)
        return subjects.output(project, entity)

    @property
    def subject_template(self) -> str:
        """The subject with its parameters in braces."""
        tail = f"{{project}}.{{{self.entity}}}"
        if self.kind == "cmd":
            return f"ocf.cmd.{'session' if self.entity == 'session' else self.verb}.{tail}"
        return f"ocf.evt.{tail}.{self.verb}" if self.kind == "evt" else f"ocf.out.{tail}"

    @property
    def stream(self) -> str:
        """The stream that stores events of this type."""
        return {"cmd": subjects.COMMANDS, "evt": subjects.EVENTS, "out": subjects.OUTPUT}[self.kind]


def _task(kind: Kind, verb: str, data: type[Model], published_by: str) -> EventType:
    return EventType(f"dev.ocf.task.{verb}.v1", kind, verb, data, published_by)


def _session(kind: Kind, verb: str, data: type[Model], published_by: str) -> EventType:
    return EventType(f"dev.ocf.session.{verb}.v1", kind, verb, data, published_by, "session")


_ALL = (
    _task("cmd", "submit", command_payloads.Submit, "backend, gateway"),
    _task("cmd", "execute", command_payloads.Execute, "submit"),
    _task("cmd", "cancel", command_payloads.Cancel, "backend, gateway"),
    _task("cmd", "cleanup", command_payloads.Cleanup, "backend, gateway, schedules"),
    _task("cmd", "reply", command_payloads.Reply, "frontend, backend"),
    _task("cmd", "result", command_payloads.PushResult, "gateway"),
    _task("cmd", "comment", command_payloads.CommentEnd, "submit, execute, cancel, cleanup (sweep)"),
    _task("evt", "accepted", fact_payloads.Accepted, "submit"),
    _task("evt", "rejected", fact_payloads.Rejected, "submit"),
    _task("evt", "started", fact_payloads.Started, "execute"),
    _task("evt", "completed", fact_payloads.Completed, "execute"),
    _task("evt", "failed", fact_payloads.Failed, "execute, cleanup (sweep)"),
    _task("evt", "cancelled", fact_payloads.Cancelled, "execute, cancel"),
    _task("evt", "timed_out", fact_payloads.TimedOut, "execute, cleanup (sweep)"),
    _task("evt", "published", fact_payloads.Published, "result"),
    _task("evt", "archived", fact_payloads.Archived, "archive"),
    _task("evt", "cleaned", fact_payloads.Cleaned, "cleanup"),
    EventType("dev.ocf.task.output.v1", "out", "output", output.Chunk, "execute"),
    _session("cmd", "create", command_payloads.SessionCreate, "backend, gateway"),
    _session("cmd", "attach", command_payloads.SessionAttach, "backend, gateway"),
    _session("cmd", "detach", command_payloads.SessionDetach, "backend, gateway"),
    _session("cmd", "destroy", command_payloads.SessionDestroy, "backend, gateway, schedules"),
    _session("evt", "created", fact_payloads.SessionCreated, "session"),
    _session("evt", "attached", fact_payloads.SessionAttached, "session"),
    _session("evt", "detached", fact_payloads.SessionDetached, "session"),
    _session("evt", "destroyed", fact_payloads.SessionDestroyed, "session"),
    _session("evt", "rejected", fact_payloads.SessionRejected, "session"),
)

TYPES: dict[str, EventType] = {spec.type: spec for spec in _ALL}

#: The terminal fact of each terminal state.
TERMINAL_TYPES: dict[State, EventType] = {
    state: TYPES[f"dev.ocf.task.{state.value}.v1"] for state in State if state in TERMINAL
}
