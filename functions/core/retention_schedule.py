"""The NATS schedule of retention. It exists while there are rules, and triggers cleanup with `scope: retention`."""

from __future__ import annotations

from ocf.events.ports import Bus
from ocf.functions.core import schedules

SCHEDULE = "ocf.schedule.retention"
RETENTION_ID = "00000000-0000-0000-0000-000000000001"
_EVERY = "@every 1h"


async def ensure_retention_schedule(bus: Bus, *, refresh: bool = False) -> None:
    """Create the schedule unless it exists; with `refresh`, replace it so that it lives for its full time."""
    await schedules.ensure_schedule(bus, SCHEDULE, _EVERY, RETENTION_ID, "retention", refresh=refresh)


async def delete_retention_schedule(bus: Bus) -> None:
    """Delete the schedule."""
    await schedules.delete_schedule(bus, SCHEDULE)
