"""The sweep's schedule: a NATS schedule that exists only while something can go wrong.

It calls the cleanup function with `scope: sweep`. Nothing pending or running means no schedule, so that the
cleanup function can scale to zero (ADR 0005).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

from events import subjects
from events.envelope import Event
from events.errors import Conflict
from events.ports import Bus

SWEEP_ID = "00000000-0000-0000-0000-000000000000"
SCHEDULE = "ocf.schedule.sweep"
_EVERY = "@every 15s"


def sweep_event() -> Event:
    """The command that the schedule publishes."""
    data = {"project_id": subjects.SYSTEM_PROJECT, "execution_id": SWEEP_ID, "scope": "sweep"}
    return Event(
        type="dev.ocf.task.cleanup.v1",
        source="/ocf/schedule",
        id="sweep",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        data=json.dumps(data).encode(),
        subject=SWEEP_ID,
    )


async def keep_sweeping(bus: Bus) -> None:
    """See that the schedule is there."""
    event = sweep_event()
    headers = {
        **event.headers(),
        "Nats-Schedule": _EVERY,
        "Nats-Schedule-Target": subjects.command("cleanup", subjects.SYSTEM_PROJECT, SWEEP_ID),
        "Nats-Schedule-TTL": "60s",
    }
    try:
        await bus.publish(SCHEDULE, event.data, headers, only_first=True)
    except Conflict:
        return  # it is there


async def stop_sweeping(bus: Bus) -> None:
    """Cancel the schedule."""
    await bus.purge(subjects.COMMANDS, SCHEDULE)
