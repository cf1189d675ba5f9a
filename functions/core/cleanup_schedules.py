"""NATS schedules that trigger the cleanup function: one message on one subject each.

The sweep's exists while executions are pending or running: without it the cleanup function can scale to zero (ADR
0005). Retention's exists while there are rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ocf.events import subjects
from ocf.events.command_payloads import Cleanup
from ocf.events.envelope import Event
from ocf.events.errors import Conflict
from ocf.events.ports import Bus

#: CloudEvents source of scheduled commands.
SOURCE = "/ocf/schedule"
#: TTL of a schedule's own message: the age of its stream does not count (ADR-43).
NEVER = "never"


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


async def ensure_schedule(bus: Bus, schedule: Schedule, *, replace: bool = False) -> None:
    """Create the schedule unless it exists; with `replace`, also then: an earlier release made another one."""
    entity = schedule.entity
    data = Cleanup(project_id=subjects.SYSTEM_PROJECT, execution_id=entity, scope=schedule.scope)
    event = Event(
        type="dev.ocf.task.cleanup.v1",
        source=SOURCE,
        id=schedule.scope,
        time=datetime.now(UTC),
        data=data.model_dump_json(exclude_none=True).encode(),
        subject=entity,
    )
    headers = {
        **event.headers(),
        "Nats-Schedule": schedule.every,
        "Nats-Schedule-Target": subjects.command("cleanup", subjects.SYSTEM_PROJECT, entity),
        "Nats-Schedule-TTL": "60s",
        "Nats-TTL": NEVER,
    }
    try:
        await bus.publish(schedule.subject, event.data, headers, only_first=not replace)
    except Conflict:
        return  # it exists


async def delete_schedule(bus: Bus, schedule: Schedule) -> None:
    """Delete the schedule."""
    await bus.purge(subjects.COMMANDS, schedule.subject)
