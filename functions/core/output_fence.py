"""What is known of an execution's output without reading it, and who may write it."""

from __future__ import annotations

from dataclasses import dataclass

from ocf.events import subjects
from ocf.events.ports import Bus, Fence
from ocf.events.reorder import line_in


@dataclass(frozen=True)
class FencedOutput:
    """Output to which nobody who began earlier can add; `last` is the sequence of its newest chunk, or 0."""

    last: int
    fence: Fence


async def acquire_fence(bus: Bus, project: str, execution: str) -> FencedOutput:
    """Set a fence, so that what an earlier writer has on its way is refused, and see how far the output is (ADR 0009).

    Raises:
        Unavailable: NATS does not answer; the fence may stand or not.
    """
    subject = subjects.fence(project, execution)
    fence = Fence(subject, await bus.publish(subject, b"", {}))
    newest = await bus.last(subjects.OUTPUT, subjects.output(project, execution))
    if newest is None:
        return FencedOutput(0, fence)
    found = line_in(newest)
    return FencedOutput(found[0] if found is not None else await _highest(bus, project, execution), fence)


async def _highest(bus: Bus, project: str, execution: str) -> int:
    """The highest sequence of its chunks, where the newest message is none."""
    last = 0
    async for message in bus.history(subjects.OUTPUT, subjects.output(project, execution)):
        found = line_in(message)
        last = last if found is None else max(last, found[0])
    return last


async def purge_output(bus: Bus, project: str, execution: str) -> int:
    """Remove an execution's chunks, and its fences; how many chunks. A writer that is still there is refused."""
    purged = await bus.purge(subjects.OUTPUT, subjects.output(project, execution))
    await bus.purge(subjects.OUTPUT, subjects.fence(project, execution))
    return purged
