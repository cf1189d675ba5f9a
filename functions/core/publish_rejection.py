"""Rejection of commands: the fact `rejected`, and the record of an execution that never starts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from ocf.events import subjects, terminal_facts
from ocf.events.command_payloads import CommentEnd
from ocf.events.command_publisher import NATS_SEQUENCE, publish_command
from ocf.events.envelope import Event, new_event
from ocf.events.errors import Conflict, InvalidEvent
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.events.fact_payloads import FieldError, Rejected, RejectReason, SessionRejected
from ocf.events.lifecycle import EXECUTION, Reason, State, Step
from ocf.events.ports import Bus, Clock, Message
from ocf.events.task_forge_fields import ReplyTo
from ocf.events.untrusted_json import EVENT, parse_json
from ocf.functions.core.command_parsing import TOKEN
from ocf.functions.core.execution_store import Records


@dataclass(frozen=True)
class Refusal:
    """The reason for a rejection.

    Args:
        errors: The errors by field.
        cause: The command's event, or None if it could not be decoded.
        number: Stream sequence of the command, which distinguishes it from other commands for the same entity.
        reason: Machine-readable reason of a rejected submit.
    """

    errors: Sequence[FieldError]
    cause: Event | None
    number: str
    reason: RejectReason = "invalid"

    @classmethod
    def of(cls, event: Event, errors: Sequence[FieldError], reason: RejectReason = "invalid") -> Refusal:
        """Return the refusal of a delivered command, numbered by its stream sequence: event ids may repeat."""
        return cls(errors, event, event.extensions.get(NATS_SEQUENCE) or event.id, reason)


@dataclass(frozen=True)
class Rejections:
    """Publisher of rejections. `timeout_seconds` goes into the record of a rejected submit."""

    bus: Bus
    records: Records
    clock: Clock
    timeout_seconds: int

    async def reject_message(self, message: Message, cause: Event | None, errors: Sequence[FieldError]) -> None:
        """Reject the submit or session command in `message`, identified by its subject; ignore other messages.

        Raises:
            Retry: NATS or the store does not answer.
        """
        refusal = Refusal(errors, cause, str(message.sequence))
        try:
            parsed = subjects.parse(message.subject)
        except InvalidEvent:
            return  # without a valid subject there is no entity to reject
        if parsed.kind != "cmd" or parsed.verb not in ("submit", "session"):
            return
        if not (TOKEN.fullmatch(parsed.project) and TOKEN.fullmatch(parsed.entity)):
            return
        if parsed.verb == "session":
            await self.reject_session(SessionRef(parsed.project, parsed.entity), refusal)
            return
        ref = ExecutionRef(parsed.project, parsed.entity)
        if await self.bus.last(subjects.EVENTS, f"ocf.evt.{ref.project}.{ref.execution}.cleaned") is None:
            await self.reject_submit(ref, refusal)

    async def reject_submit(self, ref: ExecutionRef, refusal: Refusal, *, title: str = "") -> None:
        """Publish `rejected` for a submit. Record it if the id is new or the record belongs to this submit.

        `ref` may contain an invalid id; then nothing is recorded.
        """
        if _valid(ref) and await self.records.ended.used(ref) is None:
            record = self._record(ref, refusal, title, self.clock.now())
            try:
                await self.records.create(record)
            except Conflict:
                # A second submit with the id of an existing execution is rejected, and does not change that execution.
                if refusal.cause is not None and await self.bus.last(subjects.COMMANDS, ref.command("execute")) is None:
                    record = await self.records.change(
                        ref.project, ref.execution, lambda known: _as_rejected(known, record)
                    )
            await self._comment(record, refusal)
        fact = Rejected(
            execution_id=ref.execution, project_id=ref.project, reason=refusal.reason, errors=list(refusal.errors)
        )
        await self.records.reject(fact, refusal.cause, key=ref.message_id("rejected", refusal.number))

    async def _comment(self, record: Record, refusal: Refusal) -> None:
        """Publish the command for a comment where the rejected submit asks for one; once over redeliveries."""
        if record.state is not State.REJECTED or record.reply_to is None:
            return
        data = CommentEnd(project_id=record.project_id, execution_id=record.execution_id)
        source, now = "/ocf/submit", self.clock.now()
        command = new_event("dev.ocf.task.comment.v1", data, source=source, time=now, cause=refusal.cause)
        with suppress(Conflict):  # an earlier delivery published it
            await publish_command(self.bus, command, record.project_id, only_first=True)

    async def reject_session(self, ref: SessionRef, refusal: Refusal) -> None:
        """Publish `rejected` for a session command, unless its id is invalid."""
        try:
            subjects.check_project(ref.project)
            subjects.check_id(ref.session, "session_id")
        except InvalidEvent:
            return
        fact = SessionRejected(session_id=ref.session, project_id=ref.project, errors=list(refusal.errors))
        key = ref.message_id("rejected", refusal.number)
        await self.records.publish_fact("dev.ocf.session.rejected.v1", fact, refusal.cause, key=key)

    def _record(self, ref: ExecutionRef, refusal: Refusal, title: str, now: datetime) -> Record:
        return Record(
            execution_id=ref.execution,
            project_id=ref.project,
            state=EXECUTION.step(None, Step.REJECT),
            title=title,
            reason=Reason.BUDGET_EXCEEDED if refusal.reason == "budget_exceeded" else None,
            errors=terminal_facts.fit_errors(refusal.errors),
            message="; ".join(f"{e.field}: {e.message}" for e in refusal.errors)[:2000],
            command_id=refusal.cause.id if refusal.cause else "",
            submitted_at=now,
            updated_at=now,
            ended_at=now,
            timeout_seconds=self.timeout_seconds,
            reply_to=_reply_to(refusal.cause),
        )


def _reply_to(cause: Event | None) -> ReplyTo | None:
    """Return the place of the comment that a submit asks for, whatever else is wrong with it."""
    try:
        data = parse_json(cause.data, EVENT) if cause is not None else None
        given = data.get("reply_to") if isinstance(data, dict) else None
        return None if given is None else ReplyTo.model_validate(given)
    except (InvalidEvent, ValidationError):
        return None


def _valid(ref: ExecutionRef) -> bool:
    try:
        subjects.check_project(ref.project)
        subjects.check_id(ref.execution)
    except InvalidEvent:
        return False
    return True


def _as_rejected(known: Record, rejected: Record) -> Record | None:
    """Return the record as rejected if it has not started and belongs to the rejected submit, else None."""
    if not EXECUTION.allows(known.state, Step.REJECT) or known.command_id != rejected.command_id:
        return None
    ended = {name: getattr(rejected, name) for name in ("reason", "errors", "message", "ended_at")}
    return known.model_copy(update={"state": EXECUTION.step(known.state, Step.REJECT), **ended})
