"""Commands that rules and schedules cause: a submit is published once, whatever is delivered again."""

from __future__ import annotations

from ocf.events import subjects
from ocf.events.command_payloads import Cancel, Submit
from ocf.events.command_publisher import publish_command
from ocf.events.dataref import offload
from ocf.events.envelope import Event, new_event
from ocf.events.errors import Conflict
from ocf.events.ports import Bus, Clock, ObjectStore

SUBMIT = "dev.ocf.task.submit.v1"
#: CloudEvents source of the submits, and who asks for a cancel.
SOURCE = "/ocf/trigger"


async def was_submitted(bus: Bus, project: str, execution: str) -> bool:
    """Return whether an earlier delivery of the event published the submit."""
    return await bus.last(subjects.COMMANDS, subjects.command("submit", project, execution)) is not None


async def publish_submit(bus: Bus, store: ObjectStore, data: Submit, cause: Event, clock: Clock) -> None:
    """Publish a submit, only once over repeated calls. A large one goes through the object store.

    Args:
        bus: The bus.
        store: The object store.
        data: The task.
        cause: The event that starts it.
        clock: The clock.

    Raises:
        InvalidEvent: The task is larger than a command may be.
    """
    submit = new_event(SUBMIT, data, source=SOURCE, time=clock.now(), cause=cause)
    submit = await offload(submit, f"{data.project_id}/{data.execution_id}", store)
    try:
        await publish_command(bus, submit, data.project_id, only_first=True)
    except Conflict:
        return  # published by an earlier delivery of the same event


async def publish_cancel(bus: Bus, project: str, execution: str, why: str, cause: Event, clock: Clock) -> None:
    """Publish a cancel of an earlier execution."""
    data = Cancel(execution_id=execution, project_id=project, why=why, requested_by=SOURCE)
    command = new_event("dev.ocf.task.cancel.v1", data, source=SOURCE, time=clock.now(), cause=cause)
    await publish_command(bus, command, project)
