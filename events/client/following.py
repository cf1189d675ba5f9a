"""Following of one execution over NATS: live output and history merged into one sequence, to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Protocol

from ocf.events import subjects
from ocf.events.output import Chunk
from ocf.events.ports import Bus, Message
from ocf.events.reorder import GapTimer, Line, Reorderer, fill_gap, gap_line, gap_lines, line_in, seek

_POLL_SECONDS = 2.0


def _now() -> datetime:
    return datetime.now(UTC)


def chunk_of(line: Line) -> Chunk:
    """Return the chunk of a line; a gap for one that has a sequence and is not a chunk otherwise."""
    try:
        return Chunk.read(line.data)
    except ValueError:
        return Chunk.read(gap_line(line.seq, line.last, _now(), "lost").data)


class EndCondition(Protocol):
    """The end of an execution, and its last sequence."""

    @property
    def last(self) -> int | None:
        """The last sequence after the end, else None."""
        ...

    def reached(self, next_sequence: int) -> bool:
        """Return whether no chunk with `next_sequence` will arrive."""
        ...

    async def refresh(self) -> None:
        """Read the current state."""
        ...

    async def on_fact(self, message: Message) -> None:
        """Handle a fact of the execution."""
        ...

    def archived(self, start: int) -> AsyncIterator[Line]:
        """Yield the archived lines of an ended execution from `start` on; nothing without an archive."""
        ...


async def watch(
    bus: Bus,
    project: str,
    execution: str,
    *,
    start: int,
    ending: EndCondition,
    poll: float = _POLL_SECONDS,
    expired: bool = False,
) -> AsyncIterator[Line]:
    """Yield every line from `start`, live as it arrives, until the end of the execution.

    Args:
        bus: The bus.
        project: The project.
        execution: The execution.
        start: First sequence.
        ending: Determines the end. Facts arrive over the same subscription, so that the end is known at once.
        poll: Seconds without a message until the history is read again, in case a live message was lost.
        expired: The execution has ended and the stream no longer has `start`; a gap is not waited for.
    """
    order, gap_timer, now = Reorderer(start, gap_lines(_now)), GapTimer(), asyncio.get_running_loop().time
    subscribed = (subjects.live(project, execution), f"ocf.evt.{project}.{execution}.*")

    def missing() -> int | None:
        return order.next if len(order) or (ending.last or 0) >= order.next else None

    async with bus.listen(*subscribed) as live:
        read_from = await seek(bus, project, execution, start)
        while True:
            await ending.refresh()  # after subscribing: the subscription has no earlier facts
            async for message in bus.history(subjects.OUTPUT, subjects.output(project, execution), after=read_from):
                read_from = message.sequence
                for line in _feed(order, message):
                    yield line
                if order.full:
                    break  # more may be held once the gap is filled or reported
            if ending.reached(order.next):
                return
            if gap_timer.read(missing(), now()) or order.full or (expired and missing() is not None):
                last = ending.last or 0 if order.missing is None else order.missing
                async with aclosing(
                    fill_gap(order, _archived(ending, order.next), last, "lost" if ending.last is None else "expired")
                ) as lines:
                    async for line in lines:
                        yield line
                continue
            async with aclosing(_live(live, order, poll, ending, gap_timer, missing)) as lines:
                async for line in lines:
                    yield line


def _feed(order: Reorderer, message: Message) -> list[Line]:
    line = line_in(message)
    return [] if line is None else order.feed(line)


async def _archived(ending: EndCondition, start: int) -> AsyncIterator[Line]:
    if ending.last is not None:
        async for line in ending.archived(start):
            yield line


async def _live(
    live: AsyncIterator[Message],
    order: Reorderer,
    poll: float,
    ending: EndCondition,
    gap_timer: GapTimer,
    missing: Callable[[], int | None],
) -> AsyncGenerator[Line, None]:
    """Yield live lines until the next history read is due or the execution ends."""
    now = asyncio.get_running_loop().time
    while not ending.reached(order.next):
        wanted = missing()
        wait = poll if wanted is None else gap_timer.wait(wanted, now())
        if not wait:
            return
        try:
            async with asyncio.timeout(wait):
                message = await anext(live)
        except TimeoutError:
            return
        if message.subject.startswith("ocf.evt."):
            await ending.on_fact(message)
            continue
        for line in _feed(order, message):
            yield line
