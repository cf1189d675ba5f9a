"""The sweep's schedule: a NATS schedule that exists only while something can go wrong.

It calls the cleanup function with `scope: sweep`. Nothing pending or running means no schedule, so that the
cleanup function can scale to zero (ADR 0005).
"""

from __future__ import annotations

from ocf.events.ports import Bus
from ocf.functions.core import schedules

SWEEP_ID = "00000000-0000-0000-0000-000000000000"
SCHEDULE = "ocf.schedule.sweep"
_EVERY = "@every 15s"


async def ensure_sweep_schedule(bus: Bus, *, refresh: bool = False) -> None:
    """See that the schedule is there; `anew`: with its whole life before it."""
    await schedules.ensure_schedule(bus, SCHEDULE, _EVERY, SWEEP_ID, "sweep", refresh=refresh)


async def delete_sweep_schedule(bus: Bus) -> None:
    """Cancel the schedule."""
    await schedules.delete_schedule(bus, SCHEDULE)
