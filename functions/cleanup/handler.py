"""cleanup: remove every trace of one execution, or run the sweep or the retention."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from ocf.events import dead_letters, subjects
from ocf.events.command_payloads import Cancel, Cleanup
from ocf.events.command_publisher import publish_command
from ocf.events.envelope import Event, new_event
from ocf.events.errors import Conflict, NotYetKnown, Unreadable
from ocf.events.event_types import TYPES
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import Cleaned
from ocf.events.lifecycle import State
from ocf.events.ports import Bucket, Bus, Clock, ObjectStore
from ocf.functions.cleanup.execution_eviction import Eviction
from ocf.functions.cleanup.retention import Retention
from ocf.functions.cleanup.sweep import Sweep
from ocf.functions.cleanup.undelivered import Undelivered
from ocf.functions.core.command_parsing import command
from ocf.functions.core.execution_store import Records
from ocf.functions.core.fencing_token import purge_output
from ocf.functions.core.item_backoff import Isolation
from ocf.functions.core.object_deletion import delete_execution
from ocf.functions.core.publish_rejection import Rejections
from ocf.functions.core.session_store import Sessions
from ocf.functions.database.store import History
from ocf.functions.settings.settings import Settings

CANCEL = TYPES["dev.ocf.task.cancel.v1"]

#: Time that a deletion waits for the archive of an execution that has just ended, so that they do not conflict.
ARCHIVE_GRACE = timedelta(seconds=60)


async def cleanup(
    event: Event,
    *,
    bus: Bus,
    store: ObjectStore,
    executions: Bucket,
    records: Records,
    session_records: Sessions,
    rejections: Rejections,
    history: History,
    isolation: Isolation,
    clock: Clock,
    settings: Settings,
) -> None:
    """Handle `dev.ocf.task.cleanup.v1`. Idempotent.

    Raises:
        Conflict: The execution runs (then it is cancelled first) or is being archived; the event is redelivered.
        NotYetKnown: There was no such execution; the event is redelivered.
    """
    request = command(event, Cleanup)
    match request.scope:
        case "sweep":
            await Sweep(bus, executions, records, isolation, clock, bool(settings.retention)).run(event)
        case "retention":
            await Retention(bus, store, records, history, isolation, clock, settings.retention).run()
        case "eviction":
            grace, days = timedelta(seconds=settings.record_grace), timedelta(days=settings.idempotency_days)
            await Undelivered(bus, records, session_records, rejections, isolation, clock).run()
            await Eviction(bus, store, records, history, isolation, clock, grace, days).run()
        case "workspace":
            return  # the worker with the files receives this command directly from NATS
        case _:
            await Deletion(bus, store, executions, records, session_records, history, clock).run(request, event)


@dataclass(frozen=True)
class Deletion:
    """The removal of one execution."""

    bus: Bus
    store: ObjectStore
    executions: Bucket
    records: Records
    session_records: Sessions
    history: History
    clock: Clock

    async def run(self, request: Cleanup, event: Event) -> None:
        """Remove the execution. Raises Conflict and NotYetKnown; see `cleanup`."""
        record, readable = None, True
        try:
            record = await self.records.find(request.project_id, request.execution_id)
        except Unreadable:
            # An unreadable record can be deleted as well, after its worker was cancelled.
            readable = False
            if await self.executions.get(ExecutionRef(request.project_id, request.execution_id).lease_key) is not None:
                await self._cancel(request, event)
                raise Conflict(f"execution {request.execution_id} runs; it is being cancelled first") from None
        if record is not None:
            await self._must_have_ended(record, request, event)
        elif readable and not await self._known(request):
            raise NotYetKnown(f"execution {request.execution_id} of project {request.project_id} is not known")
        cleaned = subjects.fact(request.project_id, request.execution_id, "cleaned")
        commands = f"ocf.cmd.*.{request.project_id}.{request.execution_id}"
        if record is None and readable and await self.bus.last(subjects.EVENTS, cleaned) is not None:
            await self.bus.purge(subjects.COMMANDS, commands)
            return  # done before
        if record is not None and record.session_id is not None:
            with suppress(NotYetKnown):  # destroyed
                await self.session_records.forget(request.project_id, record.session_id, request.execution_id)
        removed = await self.remove(request.project_id, request.execution_id)
        fact = Cleaned(execution_id=request.execution_id, project_id=request.project_id, removed=removed)
        await self.records.publish_fact("dev.ocf.task.cleaned.v1", fact, event, once=True, of=record)
        if await self.records.get(request.project_id, request.execution_id) is not None:
            raise Conflict(f"execution {request.execution_id} was recorded by a concurrent submit")
        # Last, because a crash before this point causes a redelivery of the command.
        await self.bus.purge(subjects.COMMANDS, commands)

    async def _known(self, request: Cleanup) -> bool:
        """Return whether the execution existed: there is its submit, the fact of an earlier cleanup, or its row."""
        submitted = subjects.command("submit", request.project_id, request.execution_id)
        cleaned = subjects.fact(request.project_id, request.execution_id, "cleaned")
        found = await self.bus.last(subjects.COMMANDS, submitted) or await self.bus.last(subjects.EVENTS, cleaned)
        return found is not None or request.project_id in await self.history.projects_of(request.execution_id)

    async def _cancel(self, request: Cleanup, event: Event) -> None:
        ref = ExecutionRef(request.project_id, request.execution_id)
        cancel = Cancel(execution_id=ref.execution, project_id=ref.project, why="deleted")
        cancel_event = new_event(CANCEL.type, cancel, source="/ocf/cleanup", time=self.clock.now(), cause=event)
        await publish_command(self.bus, cancel_event, ref.project)

    async def _must_have_ended(self, record: Record, request: Cleanup, event: Event) -> None:
        if not record.terminal:
            if not record.cancel_requested:
                await self._cancel(request, event)
            raise Conflict(f"execution {record.execution_id} is {record.state.value}; it is being cancelled first")
        if record.outbox:
            await self.records.publish_outbox(record)
        recent = record.ended_at is not None and self.clock.now() - record.ended_at < ARCHIVE_GRACE
        if not record.archived and recent and record.state is not State.REJECTED and record.attempts:
            raise Conflict(f"execution {record.execution_id} is being archived")

    async def remove(self, project: str, execution: str) -> dict[str, int]:
        """Remove record, lease, objects, output and events; return the number of each.

        The record is removed first, so that a concurrent archive detects the deletion.
        """
        ref = ExecutionRef(project, execution)
        record = await self.executions.get(ref.record_key)
        await self.executions.delete(ref.record_key)
        await self.executions.delete(ref.lease_key)
        await self.records.open.remove(ref)
        await self.records.ended.forget(ref)
        return {
            "records": int(record is not None),
            "objects": await delete_execution(self.store, ref),
            "output": await purge_output(self.bus, project, execution),
            "events": await self.bus.purge(subjects.EVENTS, f"ocf.evt.{project}.{execution}.>"),
            "dead_letters": await dead_letters.delete(self.bus, project, execution),
        }
