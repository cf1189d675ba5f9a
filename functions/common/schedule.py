"""NATS schedules that call the cleanup function: one message on one subject, there or not there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from events import subjects
from events.envelope import Event
from events.errors import Conflict
from events.models import Cleanup
from events.ports import Bus


async def keep(bus: Bus, schedule: str, every: str, entity: str, scope: Literal["sweep", "retention"]) -> None:
    """See that the schedule on the subject `schedule` is there: a cleanup command of `scope` about `entity`."""
    data = Cleanup(project_id=subjects.SYSTEM_PROJECT, execution_id=entity, scope=scope)
    event = Event(
        type="dev.ocf.task.cleanup.v1",
        source="/ocf/schedule",
        id=scope,
        time=datetime(2026, 1, 1, tzinfo=UTC),
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
        await bus.publish(schedule, event.data, headers, only_first=True)
    except Conflict:
        return  # it is there


async def stop(bus: Bus, schedule: str) -> None:
    """Cancel it."""
    await bus.purge(subjects.COMMANDS, schedule)
