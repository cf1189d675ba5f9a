"""cleanup: remove every trace of one execution, or run the sweep or the retention."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from ocf.events import dead_letters, subjects
from ocf.events.commands import Cancel, Cleanup
from ocf.events.delivery import publish_command
from ocf.events.envelope import Event, new_event
from ocf.events.errors import Conflict, NotYetKnown, Unreadable
from ocf.events.event_types import TYPES
from ocf.events.execution_record import Record
from ocf.events.facts import Cleaned
from ocf.events.lifecycle import State
from ocf.events.refs import ExecutionRef
from ocf.functions.cleanup.retention import retain
from ocf.functions.cleanup.sweep import sweep
from ocf.functions.core.command_events import command
from ocf.functions.core.output_fence import purge_output
from ocf.functions.core.session_repository import Sessions
from ocf.functions.core.stored_objects import delete_execution
from ocf.functions.runtime.bootstrap import Dependencies

CANCEL = TYPES["dev.ocf.task.cancel.v1"]

#: Time that a deletion waits for the archive of an execution that has just ended, so that they do not conflict.
ARCHIVE_GRACE = timedelta(seconds=60)


async def cleanup(deps: Dependencies, event: Event) -> None:
    """Handle `dev.ocf.task.cleanup.v1`. Idempotent.

    Raises:
        Conflict: The execution runs (then it is cancelled first) or is being archived; the event is redelivered.
        NotYetKnown: There was no such execution; the event is redelivered.
    """
    request = command(event, Cleanup)
    if request.scope == "sweep":
        await sweep(deps, event)
        return
    if request.scope == "retention":
        await retain(deps, event)
        return
    if request.scope == "workspace":
        return  # the worker with the files receives this command directly from NATS
    record, readable = None, True
    try:
        record = await deps.records.get(request.project_id, request.execution_id)
    except Unreadable:
        # An unreadable record can be deleted as well, after its worker was cancelled.
        readable = False
        if await deps.executions.get(ExecutionRef(request.project_id, request.execution_id).lease_key) is not None:
            await _cancel(deps, request, event)
            raise Conflict(f"execution {request.execution_id} runs; it is being cancelled first") from None
    if record is not None:
        await _must_have_ended(deps, record, request, event)
    elif readable and not await _known(deps, request):
        raise NotYetKnown(f"execution {request.execution_id} of project {request.project_id} is not known")
    cleaned = subjects.fact(request.project_id, request.execution_id, "cleaned")
    commands = f"ocf.cmd.*.{request.project_id}.{request.execution_id}"
    if record is None and readable and await deps.bus.last(subjects.EVENTS, cleaned) is not None:
        await deps.bus.purge(subjects.COMMANDS, commands)
        return  # done before
    if record is not None and record.session_id is not None:
        with suppress(NotYetKnown):  # destroyed
            sessions = Sessions(deps.sessions, deps.clock)
            await sessions.forget(request.project_id, record.session_id, request.execution_id)
    removed = await remove(deps, request.project_id, request.execution_id)
    fact = Cleaned(execution_id=request.execution_id, project_id=request.project_id, removed=removed)
    await deps.records.publish_fact("dev.ocf.task.cleaned.v1", fact, event, once=True, of=record)
    if await deps.records.get(request.project_id, request.execution_id) is not None:
        raise Conflict(f"execution {request.execution_id} was recorded by a concurrent submit")
    # Last, because a crash before this point causes a redelivery of the command.
    await deps.bus.purge(subjects.COMMANDS, commands)


async def _known(deps: Dependencies, request: Cleanup) -> bool:
    """Return whether the execution existed: there is its submit, or the fact of an earlier cleanup."""
    submitted = subjects.command("submit", request.project_id, request.execution_id)
    cleaned = subjects.fact(request.project_id, request.execution_id, "cleaned")
    found = await deps.bus.last(subjects.COMMANDS, submitted) or await deps.bus.last(subjects.EVENTS, cleaned)
    return found is not None


async def _cancel(deps: Dependencies, request: Cleanup, event: Event) -> None:
    ref = ExecutionRef(request.project_id, request.execution_id)
    cancel = Cancel(execution_id=ref.execution, project_id=ref.project, why="deleted")
    cancel_event = new_event(CANCEL.type, cancel, source="/ocf/cleanup", time=deps.clock.now(), cause=event)
    await publish_command(deps.bus, cancel_event, ref.project)


async def _must_have_ended(deps: Dependencies, record: Record, request: Cleanup, event: Event) -> None:
    if not record.terminal:
        if not record.cancel_requested:
            await _cancel(deps, request, event)
        raise Conflict(f"execution {record.execution_id} is {record.state.value}; it is being cancelled first")
    if record.outbox:
        await deps.records.publish_outbox(record)
    recent = record.ended_at is not None and deps.clock.now() - record.ended_at < ARCHIVE_GRACE
    if not record.archived and recent and record.state is not State.REJECTED and record.attempts:
        raise Conflict(f"execution {record.execution_id} is being archived")


async def remove(deps: Dependencies, project: str, execution: str) -> dict[str, int]:
    """Remove record, lease, objects, output and events; return the number of each.

    The record is removed first, so that a concurrent archive detects the deletion.
    """
    ref = ExecutionRef(project, execution)
    record = await deps.executions.get(ref.record_key)
    await deps.executions.delete(ref.record_key)
    await deps.executions.delete(ref.lease_key)
    return {
        "records": int(record is not None),
        "objects": await delete_execution(deps.store, ref),
        "output": await purge_output(deps.bus, project, execution),
        "events": await deps.bus.purge(subjects.EVENTS, f"ocf.evt.{project}.{execution}.>"),
        "dead_letters": await dead_letters.delete(deps.bus, project, execution),
    }
