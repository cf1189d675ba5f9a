"""What is known of an execution's output without reading it."""

from __future__ import annotations

import json

from events import subjects
from events.ports import Bus


async def last_sequence(bus: Bus, project: str, execution: str) -> int:
    """Sequence of the newest chunk that is kept; 0 when there is none."""
    newest = await bus.last(subjects.OUTPUT, subjects.output(project, execution))
    return int(json.loads(newest.data)["seq"]) if newest is not None else 0
