"""NATS schedules that trigger the cleanup function: one message on one subject each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

from ocf.events import subjects
from ocf.events.commands import Cleanup
from ocf.events.envelope import Event
from ocf.events.errors import Conflict
from ocf.events.ports import Bus
from ocf.events.streams import SCHEDULE_AGE

#: CloudEvents source of scheduled commands.
SOURCE = "/ocf/schedule"


async def ensure_schedule(
    bus: Bus, schedule: str, every: str, entity: str, scope: Literal["sweep", "retention"], *, refresh: bool = False
) -> None:
    """Create a schedule of a cleanup command unless it exists.

    Args:
        bus: The bus.
        schedule: Subject of the schedule.
        every: Interval in NATS's form, such as `@every 15s`.
        entity: Execution id in the command.
        scope: Scope of the command.
        refresh: Replace an existing schedule, so that the stream does not expire it.
    """
    data = Cleanup(project_id=subjects.SYSTEM_PROJECT, execution_id=entity, scope=scope)
    event = Event(
        type="dev.ocf.task.cleanup.v1",
        source=SOURCE,
        id=scope,
        # The scheduled commands have this time, from which `is_expiring` derives the age of the schedule.
        time=datetime.now(UTC),
        data=data.model_dump_json(exclude_none=True).encode(),
        subject=entity,
    )
    headers = {
        **event.headers(),
        "Nats-Schedule": every,
        "Nats-Schedule-Target": subjects.command("cleanup", subjects.SYSTEM_PROJECT, entity),
        "Nats-Schedule-TTL": "60s",
    }
    try:
        await bus.publish(schedule, event.data, headers, only_first=not refresh)
    except Conflict:
        return  # it exists


def is_expiring(sent: Event, now: datetime) -> bool:
    """Return whether the stream may soon expire the schedule that sent this command."""
    return now - sent.time > timedelta(seconds=SCHEDULE_AGE)


async def delete_schedule(bus: Bus, schedule: str) -> None:
    """Delete the schedule on the subject `schedule`."""
    await bus.purge(subjects.COMMANDS, schedule)
