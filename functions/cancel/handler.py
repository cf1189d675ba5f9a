"""cancel: end an execution that has not started; record the request for one that runs."""

from __future__ import annotations

from ocf.events import subjects, terminal_facts
from ocf.events.command_payloads import Cancel
from ocf.events.envelope import Event
from ocf.events.errors import Drop, NotYetKnown
from ocf.events.execution_record import Record
from ocf.events.lifecycle import State, Step
from ocf.events.ports import Bus, Clock
from ocf.functions.core.command_parsing import command
from ocf.functions.core.execution_store import Records


async def cancel(event: Event, *, bus: Bus, records: Records, clock: Clock) -> None:
    """Handle `dev.ocf.task.cancel.v1`.

    The worker of a running execution receives the same command directly from NATS. This function records the request
    in the execution's record, for a worker that missed the command and for later attempts.

    Raises:
        NotYetKnown: There is no such execution (its submit may be on the way); the event is redelivered.
        Drop: The execution has ended, or was deleted.
    """
    request = command(event, Cancel)
    record = await records.find(request.project_id, request.execution_id)
    if record is None:
        cleaned = subjects.fact(request.project_id, request.execution_id, "cleaned")
        if await bus.last(subjects.EVENTS, cleaned) is not None:
            raise Drop(f"execution {request.execution_id} was deleted")
        raise NotYetKnown(f"execution {request.execution_id} of project {request.project_id} is not known")
    if record.terminal:
        raise Drop(f"execution {request.execution_id} is {record.state.value} already")

    def requested(newest: Record) -> Record | None:
        if newest.terminal or (newest.cancel_requested and newest.state is State.RUNNING):
            return None
        marks = {"cancel_requested": True, "cancel_why": request.why, "cancel_by": request.requested_by}
        if newest.state is State.RUNNING:
            return newest.model_copy(update=marks)
        ending = terminal_facts.Ending(Step.CANCEL, request.why or "", requested_by=request.requested_by)
        fact = terminal_facts.compose(newest, ending, clock.now())
        return records.apply_terminal_step(newest.model_copy(update=marks), Step.CANCEL, fact, cause=event)

    changed = await records.change(request.project_id, request.execution_id, requested)
    await records.publish_outbox(changed)
