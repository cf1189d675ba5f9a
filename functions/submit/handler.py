"""submit: validate the task, record the execution, publish the execute command. Idempotent on the execution id."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from ocf.events import dataref, subjects, terminal_facts, untrusted_json
from ocf.events.command_payloads import MAX_COMMAND_BYTES, Cleanup, EmptyWorkspace, Execute, Submit
from ocf.events.command_publisher import publish_command
from ocf.events.envelope import Event, InvalidData, decode, new_event, parse
from ocf.events.errors import Conflict, Drop, InvalidEvent, NotYetKnown
from ocf.events.event_types import TYPES
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.events.fact_payloads import Accepted, FieldError, Outcome
from ocf.events.lifecycle import EXECUTION, Reason, State, Step
from ocf.events.ports import Bus, Clock, Message, ObjectStore
from ocf.functions.core import task_limits
from ocf.functions.core.cleanup_schedules import SWEEP, ensure_schedule
from ocf.functions.core.command_parsing import ids_of
from ocf.functions.core.execution_store import Records
from ocf.functions.core.publish_rejection import Refusal, Rejections
from ocf.functions.core.session_store import Sessions
from ocf.functions.settings.settings import Settings
from ocf.functions.submit import budget
from ocf.functions.submit.rerun import costs_nothing, resolved
from ocf.functions.submit.session_submit_order import check_order
from ocf.functions.submit.task_rules import broken_rules

if TYPE_CHECKING:
    from ocf.functions.database.store import History

EXECUTE = TYPES["dev.ocf.task.execute.v1"]
CLEANUP = TYPES["dev.ocf.task.cleanup.v1"]


async def submit(
    event: Event,
    *,
    bus: Bus,
    store: ObjectStore,
    records: Records,
    session_records: Sessions,
    rejections: Rejections,
    clock: Clock,
    settings: Settings,
    open_history: Callable[[], History],
) -> None:
    """Handle `dev.ocf.task.submit.v1`: record one execution per id, or publish `rejected` with every invalid field.

    Raises:
        Drop: The execution has started or ended, or was deleted.
        NotYetKnown: The session of the task is being created; the event is redelivered.
        NotItsTurn: An earlier submit of the session is still to be delivered; the event is requeued.
        InvalidEvent: The event has no usable ids, or another type.
    """
    ref = ExecutionRef(*ids_of(event))
    # The ids may be invalid here, which `ref.fact` would refuse.
    if await bus.last(subjects.EVENTS, f"ocf.evt.{ref.project}.{ref.execution}.cleaned") is not None:
        raise Drop(f"execution {ref.execution} was deleted")
    try:
        asked = await _validated(event, ref, store, settings, clock.now())
        data = await resolved(asked, bus, store, records, settings)
    except InvalidData as error:
        await rejections.reject_submit(ref, Refusal.of(event, error.errors), title=_rejected_title(event))
        return
    digest = hashlib.sha256(asked.model_dump_json(by_alias=True, exclude_defaults=True).encode()).hexdigest()
    over_budget = None if costs_nothing(data) else await budget.exhausted(ref, settings, bus, clock, open_history)
    if await _refused(event, ref, digest, over_budget, records, rejections):
        return
    # Most ids are new, which the create detects. Only a task in a session needs the check of the session first.
    record = await records.get(ref.project, ref.execution) if data.session_id is not None else None
    if record is None:
        wrong_session = await _session_error(data, bus, session_records)
        if wrong_session is not None:
            await rejections.reject_submit(ref, Refusal.of(event, [wrong_session]), title=_rejected_title(event))
            return
        if data.session_id is not None:
            await check_order(event, data, bus, records)
        record = await _record(records, new_record(event, data, digest, settings, clock.now()))
    if record.digest != digest:
        await rejections.reject_submit(ref, Refusal.of(event, [_used_id(record.state)]))
        return
    if record.state is not State.PENDING:
        await _drop(record, event, data, bus, records, clock)
    if data.session_id is not None:
        await _let_sweep(ref, bus, records)  # also an execution that cannot join its session
        if not await _joins(data.session_id, ref, event, record, records, session_records, clock):
            return
    # They are sent in this order on one connection. None depends on the response of another, and each is idempotent.
    await asyncio.gather(
        _let_sweep(ref, bus, records),
        _publish_accepted(records, event, data),
        _publish_execute(bus, store, event, data, ref, clock.now()),
    )
    await _check_not_deleted(ref, bus, records, clock)


async def _joins(
    session: str, ref: ExecutionRef, event: Event, record: Record, records: Records, sessions: Sessions, clock: Clock
) -> bool:
    """Add the execution to the queue of its session; if that is being destroyed, fail it and return False."""
    try:
        await sessions.join(ref.project, session, ref.execution)
    except NotYetKnown as error:
        await fail(records, event, record, str(error), clock.now())
        return False
    return True


async def _drop(record: Record, event: Event, data: Submit, bus: Bus, records: Records, clock: Clock) -> None:
    """Raise Drop for an execution that has started or ended; publish `accepted` for one that runs."""
    if not record.terminal:
        # An earlier delivery may have published the execute command and nothing else.
        await _let_sweep(ExecutionRef(data.project_id, data.execution_id), bus, records)
        await _publish_accepted(records, event, data)
        await _check_not_deleted(ExecutionRef(data.project_id, data.execution_id), bus, records, clock)
    raise Drop(f"execution {data.execution_id} is {record.state.value} already")


async def _refused(
    event: Event, ref: ExecutionRef, digest: str, over: FieldError | None, records: Records, rejections: Rejections
) -> bool:
    """Reject a submit beyond the budget, or with the id of an execution that ended longer ago.

    Raises:
        Drop: That execution had the same task.
    """
    refusal = None if over is None else Refusal.of(event, [over], "budget_exceeded")
    used = await records.ended.used(ref)
    if used is not None:
        if used.digest == digest:
            raise Drop(f"execution {ref.execution} is {used.state} already")
        refusal = Refusal.of(event, [_used_id(used.state)])
    if refusal is not None:
        await rejections.reject_submit(ref, refusal, title=_rejected_title(event))
    return refusal is not None


async def _check_not_deleted(ref: ExecutionRef, bus: Bus, records: Records, clock: Clock) -> None:
    """Undo the submit of an execution that was deleted meanwhile. Raises Drop in this case.

    Cleanup publishes `cleaned` and then reads the record; submit creates the record and then reads `cleaned`. So at
    least one of them sees the other.
    """
    if await records.get(ref.project, ref.execution) is None:
        await bus.purge(subjects.COMMANDS, ref.command("execute"))
        await bus.purge(subjects.EVENTS, ref.fact("accepted"))
        raise Drop(f"execution {ref.execution} was deleted")
    if await bus.last(subjects.EVENTS, ref.fact("cleaned")) is not None:
        request = Cleanup(execution_id=ref.execution, project_id=ref.project, requested_by="/ocf/submit")
        cleanup = new_event(CLEANUP.type, request, source="/ocf/submit", time=clock.now())
        await publish_command(bus, cleanup, ref.project)
        raise Drop(f"execution {ref.execution} was deleted before it was recorded")


def _used_id(state: str) -> FieldError:
    rejected = state == State.REJECTED
    message = "was rejected before; use a new one" if rejected else "was used before with another body; use a new one"
    return FieldError(field="execution_id", message=message)


async def _let_sweep(ref: ExecutionRef, bus: Bus, records: Records) -> None:
    """Let the sweep check the execution. A sweep that ends its schedule looks for keys after that."""
    await records.open.add(ref)
    await ensure_schedule(bus, SWEEP)


async def _publish_accepted(records: Records, event: Event, data: Submit) -> None:
    fact = Accepted(execution_id=data.execution_id, project_id=data.project_id, labels=data.labels)
    await records.publish_fact("dev.ocf.task.accepted.v1", fact, event, once=True)


async def _validated(event: Event, ref: ExecutionRef, store: ObjectStore, settings: Settings, now: datetime) -> Submit:
    """Return the submit's data. Raises InvalidData with every invalid field."""
    if len(event.data) > MAX_COMMAND_BYTES:
        raise InvalidData([FieldError(field="data", message=f"at most {MAX_COMMAND_BYTES} bytes (16 MiB)")])
    try:
        event = await dataref.resolve(event, ref.prefix, store)
        data = parse(event)
    except InvalidData:
        raise
    except InvalidEvent as error:
        raise InvalidData([FieldError(field="data", message=str(error))]) from None
    if not isinstance(data, Submit):
        raise InvalidEvent(f"type: {event.type} is not for the submit function")
    errors = _against_subject(data, ref) + broken_rules(data, settings)
    errors += _expired(event.extensions.get("expirytime"), now)
    if errors:
        raise InvalidData(errors)
    return data


def _against_subject(data: Submit, ref: ExecutionRef) -> list[FieldError]:
    errors = []
    if data.project_id != ref.project:
        errors.append(FieldError(field="project_id", message=f"is not the subject's project {ref.project!r}"))
    if data.execution_id != ref.execution:
        errors.append(FieldError(field="execution_id", message=f"is not the subject's execution {ref.execution!r}"))
    return errors


def _expired(expiry: str | None, now: datetime) -> list[FieldError]:
    if expiry is None:
        return []
    try:
        passed = datetime.fromisoformat(expiry) < now
    except (ValueError, TypeError, OverflowError):
        return [FieldError(field="expirytime", message="is not an RFC 3339 timestamp with a zone")]
    return [FieldError(field="expirytime", message=f"{expiry} has passed")] if passed else []


async def _session_error(data: Submit, bus: Bus, session_records: Sessions) -> FieldError | None:
    if data.session_id is None:
        return None
    found = await session_records.get(data.project_id, data.session_id)
    if found is not None and found.usable:
        if found.saved is None or isinstance(data.workspace, EmptyWorkspace):
            return None
        return FieldError(field="workspace", message=f"session {data.session_id} already has a workspace; omit it")
    if found is None and await _being_created(bus, SessionRef(data.project_id, data.session_id)):
        raise NotYetKnown(f"session {data.session_id} of project {data.project_id} is being created")
    return FieldError(field="session_id", message=f"no open session with this id in project {data.project_id}")


async def _being_created(bus: Bus, ref: SessionRef) -> bool:
    """Return whether the session is being created, or was created after the caller's check.

    It is being created if its create was published before this submit and no fact has followed.
    """
    for what, there in (("destroyed", False), ("created", True), ("rejected", False)):
        if await bus.last(subjects.EVENTS, ref.fact(what)) is not None:
            return there
    seen = 0
    async for one in bus.history(subjects.COMMANDS, ref.command()):
        if _creates(one):
            return True
        seen = one.sequence
    # A replica that lags may have answered: the leader knows the newest command, which may be the create.
    newest = await bus.last(subjects.COMMANDS, ref.command())
    return newest is not None and newest.sequence > seen


def _creates(message: Message) -> bool:
    try:
        return decode(message.headers, message.data).type == "dev.ocf.session.create.v1"
    except InvalidEvent:
        return False  # the dispatcher rejects it


def new_record(event: Event, data: Submit, digest: str, settings: Settings, now: datetime) -> Record:
    """Return the record of an accepted execution."""
    model = data.model
    return Record(
        execution_id=data.execution_id,
        project_id=data.project_id,
        task_id=data.task_id,
        session_id=data.session_id,
        state=EXECUTION.step(None, Step.ACCEPT),
        title=title_of(data),
        labels=data.labels,
        model=f"{model.provider}/{model.model}" if model else settings.model,
        digest=digest,
        request_digest=event.extensions.get("requestdigest", ""),
        command_id=event.id,
        traceparent=event.extensions.get("traceparent"),
        submitted_at=now,
        updated_at=now,
        timeout_seconds=task_limits.effective_limit(data.limits, "timeout_seconds", settings),
        max_attempts=data.retry.max_attempts,
        reply_to=data.reply_to,
        rerun_of=data.rerun.of if data.rerun is not None else None,
    )


async def _record(records: Records, record: Record) -> Record:
    """Store a new record; return it, or the one that another delivery created first."""
    try:
        await records.create(record)
    except Conflict:
        return await records.require(record.project_id, record.execution_id)
    return record


def title_of(data: Submit) -> str:
    """Return the first line of the prompt or code, for lists."""
    return untrusted_json.first_line(data.prompt or data.code or "")


async def fail(records: Records, event: Event, record: Record, message: str, now: datetime) -> None:
    """End an accepted execution whose session was destroyed before it could join."""
    ending = terminal_facts.Ending(Step.FAIL, message, Reason.INVALID_WORKSPACE)

    def failed(record: Record) -> tuple[Step, Outcome]:
        return ending.step, terminal_facts.compose(record, ending, now)

    await records.end(record.project_id, record.execution_id, failed, event)


async def _publish_execute(
    bus: Bus, store: ObjectStore, event: Event, data: Submit, ref: ExecutionRef, now: datetime
) -> None:
    """Publish the execute command, only once over repeated calls."""
    command = Execute.model_validate({**data.model_dump(by_alias=True), "submitted_at": now})
    execute = new_event(EXECUTE.type, command, source="/ocf/submit", time=now, cause=event)
    execute = await dataref.offload(execute, ref.prefix, store)
    try:
        await publish_command(bus, execute, ref.project, only_first=True)
    except Conflict:
        return  # published by an earlier delivery of the same submit


def _rejected_title(event: Event) -> str:
    """Return the title of a rejected submit, as far as it can be parsed."""
    prompt = untrusted_json.text_member(event.data, "prompt")
    return "" if prompt is None else untrusted_json.first_line(prompt).encode("utf-8", "replace").decode()
