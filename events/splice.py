"""The splice rule: live and history of one execution become one gapless stream (docs/streaming.md).

1. Subscribe to the live subject first. 2. Read history. 3. Give each chunk once, by its `seq`.
4. A live chunk beyond the next expected one is a gap: read history again from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Protocol

from events import subjects
from events.output import Chunk
from events.ports import Bus, Message

_READ_AGAIN = 2.0


def chunk_of(message: Message) -> Chunk:
    """The chunk a message carries."""
    return Chunk.model_validate_json(message.data)


class Splicer:
    """Orders chunks and drops repeats. Pure: no I/O, no clock."""

    def __init__(self, start: int = 1) -> None:
        self.next = start
        self._early: dict[int, Chunk] = {}

    @property
    def gap(self) -> bool:
        """Whether chunks are waiting for one that has not come."""
        return bool(self._early)

    def feed(self, chunk: Chunk) -> list[Chunk]:
        """The chunks that can be given now, in order."""
        if chunk.seq < self.next:
            return []
        self._early.setdefault(chunk.seq, chunk)
        ready = []
        while self.next in self._early:
            ready.append(self._early.pop(self.next))
            self.next += 1
        return ready


class Ending(Protocol):
    """Knows whether an execution has ended, and at which sequence."""

    def reached(self, next_sequence: int) -> bool:
        """Whether no chunk with `next_sequence` will come."""
        ...

    async def look(self) -> None:
        """Find out anew."""
        ...

    async def fact(self, message: Message) -> None:
        """A fact of the execution was said."""
        ...


async def watch(
    bus: Bus, project: str, execution: str, *, start: int, ending: Ending, poll: float = _READ_AGAIN
) -> AsyncIterator[Chunk]:
    """Every chunk from `start`, live as it comes, until `ending` says that there is no more.

    Facts come over the same subscription, so that the end is known at once. `poll`: seconds of silence after which
    history is read again, in case something was lost on the way.
    """
    splicer = Splicer(start)
    heard = (subjects.live(project, execution), f"ocf.evt.{project}.{execution}.*")
    async with bus.listen(*heard) as live:
        read_from = 0
        while True:
            await ending.look()  # after subscribing: an end before that was not heard
            async for message in bus.history(subjects.OUTPUT, subjects.output(project, execution), after=read_from):
                read_from = message.sequence
                for chunk in splicer.feed(chunk_of(message)):
                    yield chunk
            async with aclosing(_until_gap(live, splicer, poll, ending)) as chunks:
                async for chunk in chunks:
                    yield chunk
            if ending.reached(splicer.next) and not splicer.gap:
                return


async def _until_gap(
    live: AsyncIterator[Message], splicer: Splicer, poll: float, ending: Ending
) -> AsyncGenerator[Chunk, None]:
    """Live chunks until one is missing, nothing comes for `poll` seconds, or it has ended."""
    while not ending.reached(splicer.next):
        try:
            async with asyncio.timeout(poll):
                message = await anext(live)
        except TimeoutError:
            return
        if message.subject.startswith("ocf.evt."):
            await ending.fact(message)
            continue
        for chunk in splicer.feed(chunk_of(message)):
            yield chunk
        if splicer.gap:
            return
