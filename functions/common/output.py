"""What is known of an execution's output without reading it, and who may write it."""

from __future__ import annotations

from dataclasses import dataclass

from events import subjects
from events.ports import Bus, Fence
from events.splice import sequence_of


@dataclass(frozen=True)
class Fenced:
    """Output to which nobody who began earlier can add; `last` is the sequence of its newest chunk, or 0."""

    last: int
    fence: Fence


async def fence_off(bus: Bus, project: str, execution: str) -> Fenced:
    """Set a fence, so that what an earlier writer has on its way is refused, and see how far the output is (ADR 0009).

    Raises:
        Unavailable: NATS does not answer; the fence may stand or not.
    """
    subject = subjects.fence(project, execution)
    fence = Fence(subject, await bus.publish(subject, b"", {}))
    newest = await bus.last(subjects.OUTPUT, subjects.output(project, execution))
    return Fenced(sequence_of(newest) if newest is not None else 0, fence)


async def purge_output(bus: Bus, project: str, execution: str) -> int:
    """Remove an execution's chunks, and its fences; how many chunks. A writer that is still there is refused."""
    purged = await bus.purge(subjects.OUTPUT, subjects.output(project, execution))
    await bus.purge(subjects.OUTPUT, subjects.fence(project, execution))
    return purged
