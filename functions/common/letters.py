"""Dead letters about one execution or session."""

from __future__ import annotations

from events import subjects
from events.ports import Bus


async def drop_letters(bus: Bus, project: str, entity: str) -> int:
    """Remove the dead letters whose event was about it; how many there were."""
    about = f".{project}.{entity}"
    found = [
        message.sequence
        async for message in bus.history(subjects.DLQ, "ocf.dlq.>")
        if message.headers.get("Ocf-Dlq-Subject", "").endswith(about)
        or f"{about}." in message.headers.get("Ocf-Dlq-Subject", "")
    ]
    return sum([await bus.remove(subjects.DLQ, sequence) for sequence in found])
