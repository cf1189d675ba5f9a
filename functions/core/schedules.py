"""NATS schedules that trigger the cleanup function: one message on one subject each.

The sweep's exists while executions are pending or running: without it the cleanup function can scale to zero (ADR
0005). Retention's exists while there are rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from ocf.events import subjects
from ocf.events.command_payloads import Cleanup
from ocf.events.envelope import Event
from ocf.events.errors import Conflict
from ocf.events.ports import Bus
from ocf.events.streams import SCHEDULE_AGE

#: CloudEvents source of scheduled commands.
SOURCE = "/ocf/schedule"


@dataclass(frozen=True)
class Schedule:
    """A schedule of a cleanup command.

    Attributes:
        subject: where the schedule is stored.
        every: its interval in NATS's form, such as `@every 15s`.
        entity: the execution id in the command.
        scope: the scope of the command.
    """

    subject: str
    every: str
    entity: str
    scope: Literal["sweep", "eviction", "retention"]


SWEEP = Schedule("ocf.schedule.sweep", "@every 15s", "00000000-0000-0000-0000-000000000000", "sweep")
EVICTION = Schedule("ocf.schedule.eviction", "@every 5m", "00000000-0000-0000-0000-000000000002", "eviction")
RETENTION = Schedule("ocf.schedule.retention", "@every 1h", "00000000-0000-0000-0000-000000000001", "retention")


async def ensure_schedule(bus: Bus, schedule: Schedule, *, refresh: bool = False) -> None:
    """Create the schedule unless it exists; with `refresh`, replace it, so that the stream does not expire it."""
    entity = schedule.entity
    data = Cleanup(project_id=subjects.SYSTEM_PROJECT, execution_id=entity, scope=schedule.scope)
    event = Event(
        type="dev.ocf.task.cleanup.v1",
        source=SOURCE,
        id=schedule.scope,
        # The scheduled commands have this time, from which `is_expiring` derives the age of the schedule.
        time=datetime.now(UTC),
        data=data.model_dump_json(exclude_none=True).encode(),
        subject=entity,
    )
    headers = {
        **event.headers(),
        "Nats-Schedule": schedule.every,
        "Nats-Schedule-Target": subjects.command("cleanup", subjects.SYSTEM_PROJECT, entity),
        "Nats-Schedule-TTL": "60s",
    }
    try:
        await bus.publish(schedule.subject, event.data, headers, only_first=not refresh)
    except Conflict:
        return  # it exists


def is_expiring(sent: Event, now: datetime) -> bool:
    """Return whether the stream may soon expire the schedule that sent this command."""
    return now - sent.time > timedelta(seconds=SCHEDULE_AGE)


async def delete_schedule(bus: Bus, schedule: Schedule) -> None:
    """Delete the schedule."""
    await bus.purge(subjects.COMMANDS, schedule.subject)
