"""The NATS schedule of the sweep. It exists while executions are pending or running, and then triggers cleanup.

The command has `scope: sweep`. Without open executions there is no schedule, so that the cleanup function can scale to
zero (ADR 0005).
"""

from __future__ import annotations

from ocf.events.ports import Bus
from ocf.functions.core import schedules

SWEEP_ID = "00000000-0000-0000-0000-000000000000"
SCHEDULE = "ocf.schedule.sweep"
_EVERY = "@every 15s"


async def ensure_sweep_schedule(bus: Bus, *, refresh: bool = False) -> None:
    """Create the schedule unless it exists; with `refresh`, replace it so that it lives for its full time."""
    await schedules.ensure_schedule(bus, SCHEDULE, _EVERY, SWEEP_ID, "sweep", refresh=refresh)


async def delete_sweep_schedule(bus: Bus) -> None:
    """Delete the schedule."""
    await schedules.delete_schedule(bus, SCHEDULE)
