"""NATS schedules that call the cleanup function: one message on one subject, there or not there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

from ocf.events import subjects
from ocf.events.commands import Cleanup
from ocf.events.envelope import Event
from ocf.events.errors import Conflict
from ocf.events.ports import Bus
from ocf.events.streams import SCHEDULE_AGE

#: The source of what schedules send.
SOURCE = "/ocf/schedule"


async def ensure_schedule(
    bus: Bus, schedule: str, every: str, entity: str, scope: Literal["sweep", "retention"], *, refresh: bool = False
) -> None:
    """See that the schedule on the subject `schedule` is there: a cleanup command of `scope` about `entity`.

    `anew`: in the place of one that is there (the server replaces it).
    """
    data = Cleanup(project_id=subjects.SYSTEM_PROJECT, execution_id=entity, scope=scope)
    event = Event(
        type="dev.ocf.task.cleanup.v1",
        source=SOURCE,
        id=scope,
        # What it sends has the same time: `old` sees how old the schedule is.
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
        return  # it is there


def is_expiring(sent: Event, now: datetime) -> bool:
    """Whether the schedule that sent this command is so old that its stream may remove it soon."""
    return now - sent.time > timedelta(seconds=SCHEDULE_AGE)


async def delete_schedule(bus: Bus, schedule: str) -> None:
    """Cancel it."""
    await bus.purge(subjects.COMMANDS, schedule)
