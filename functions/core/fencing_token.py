"""Fencing of an execution's output, and its last sequence without reading all of it."""

from __future__ import annotations

from dataclasses import dataclass

from ocf.events import subjects
from ocf.events.ports import Bus, Fence
from ocf.events.reorder import line_in


@dataclass(frozen=True)
class FencedOutput:
    """Output after the fence was set: earlier writers are refused. `last` is the highest sequence, or 0."""

    last: int
    fence: Fence


async def acquire_fence(bus: Bus, project: str, execution: str) -> FencedOutput:
    """Set a fence, so that messages of earlier writers are refused, and read the last sequence (ADR 0009).

    Raises:
        Unavailable: NATS does not answer; the fence may or may not be set.
    """
    subject = subjects.fence(project, execution)
    fence = Fence(subject, await bus.publish(subject, b"", {}))
    newest = await bus.last(subjects.OUTPUT, subjects.output(project, execution))
    if newest is None:
        return FencedOutput(0, fence)
    found = line_in(newest)
    return FencedOutput(found.seq if found is not None else await _highest(bus, project, execution), fence)


async def _highest(bus: Bus, project: str, execution: str) -> int:
    """Return the highest sequence of all chunks, for the case that the latest message is not a chunk."""
    last = 0
    async for message in bus.history(subjects.OUTPUT, subjects.output(project, execution)):
        found = line_in(message)
        last = last if found is None else max(last, found.seq)
    return last


async def purge_output(bus: Bus, project: str, execution: str) -> int:
    """Remove an execution's chunks and fences, so that a remaining writer is refused; return the number of chunks."""
    purged = await bus.purge(subjects.OUTPUT, subjects.output(project, execution))
    await bus.purge(subjects.OUTPUT, subjects.fence(project, execution))
    return purged
