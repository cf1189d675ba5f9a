"""Commands that never have an effect: the fact `rejected`, and the record of an execution that never starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ocf.events import outcomes, subjects
from ocf.events.envelope import Event
from ocf.events.errors import Conflict, InvalidEvent
from ocf.events.execution_record import Record
from ocf.events.facts import FieldError, Rejected, SessionRejected
from ocf.events.lifecycle import State, Step, step
from ocf.events.ports import Message
from ocf.events.refs import ExecutionRef, SessionRef
from ocf.functions.core.command_events import NATS_SEQUENCE, TOKEN
from ocf.functions.runtime.bootstrap import Parts


@dataclass(frozen=True)
class Refusal:
    """Why a command has no effect.

    `cause` is its event, None where it could not be read; `number` tells it from other commands about the same
    execution or session: its sequence in the stream.
    """

    errors: Sequence[FieldError]
    cause: Event | None
    number: str

    @classmethod
    def of(cls, event: Event, errors: Sequence[FieldError]) -> Refusal:
        """The refusal of a command as the dispatcher handed it over. Event ids are the publisher's, and may repeat."""
        return cls(errors, event, event.extensions.get(NATS_SEQUENCE) or event.id)


async def reject_message(parts: Parts, message: Message, cause: Event | None, errors: Sequence[FieldError]) -> None:
    """Reject the submit or session command that `message` is, by its subject; other messages are left alone.

    Raises:
        Retry: not now.
    """
    refusal = Refusal(errors, cause, str(message.sequence))
    try:
        parsed = subjects.parse(message.subject)
    except InvalidEvent:
        return  # it names nobody who could be told
    if parsed.kind != "cmd" or parsed.verb not in ("submit", "session"):
        return
    if not (TOKEN.fullmatch(parsed.project) and TOKEN.fullmatch(parsed.entity)):
        return
    if parsed.verb == "session":
        await reject_session(parts, SessionRef(parsed.project, parsed.entity), refusal)
        return
    ref = ExecutionRef(parsed.project, parsed.entity)
    if await parts.bus.last(subjects.EVENTS, f"ocf.evt.{ref.project}.{ref.execution}.cleaned") is None:
        await reject_submit(parts, ref, refusal)


async def reject_submit(parts: Parts, ref: ExecutionRef, refusal: Refusal, *, title: str = "") -> None:
    """Say that a submit never starts. The record says so where the id is new, or where this very submit made it.

    `ref` may hold what is no valid id: then nothing is recorded.
    """
    if _valid(ref):
        now = parts.clock.now()
        record = _record(parts, ref, refusal, title, now)
        try:
            await parts.records.create(record)
        except Conflict:
            # Another submit of an id that runs is rejected, and changes nothing.
            if refusal.cause is not None and await parts.bus.last(subjects.COMMANDS, ref.command("execute")) is None:
                await parts.records.change(ref.project, ref.execution, lambda known: _given_up(known, record))
    fact = Rejected(execution_id=ref.execution, project_id=ref.project, errors=list(refusal.errors))
    await parts.records.reject(fact, refusal.cause, key=ref.message_id("rejected", refusal.number))


async def reject_session(parts: Parts, ref: SessionRef, refusal: Refusal) -> None:
    """Say that a session command has no effect. Nothing is said about what is no valid id."""
    try:
        subjects.check_project(ref.project)
        subjects.check_id(ref.session, "session_id")
    except InvalidEvent:
        return
    fact = SessionRejected(session_id=ref.session, project_id=ref.project, errors=list(refusal.errors))
    key = ref.message_id("rejected", refusal.number)
    await parts.records.say("dev.ocf.session.rejected.v1", fact, refusal.cause, key=key)


def _valid(ref: ExecutionRef) -> bool:
    try:
        subjects.check_project(ref.project)
        subjects.check_id(ref.execution)
    except InvalidEvent:
        return False
    return True


def _record(parts: Parts, ref: ExecutionRef, refusal: Refusal, title: str, now: datetime) -> Record:
    return Record(
        execution_id=ref.execution,
        project_id=ref.project,
        state=step(None, Step.REJECT),
        title=title,
        errors=outcomes.fit_errors(refusal.errors),
        message="; ".join(f"{e.field}: {e.message}" for e in refusal.errors)[:2000],
        command_id=refusal.cause.id if refusal.cause else "",
        submitted_at=now,
        updated_at=now,
        ended_at=now,
        timeout_seconds=parts.settings.task_timeout,
    )


def _given_up(known: Record, rejected: Record) -> Record | None:
    """`known` as rejected, where its submit had recorded it and came no further."""
    if known.state is not State.PENDING or known.command_id != rejected.command_id:
        return None
    ended = {"errors": rejected.errors, "message": rejected.message, "ended_at": rejected.ended_at}
    return known.model_copy(update={"state": step(known.state, Step.REJECT), **ended})
