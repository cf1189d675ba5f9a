"""The splice rule: live and history of one execution become one gapless stream (docs/streaming.md).

1. Subscribe to the live subject first. 2. Read history. 3. Give each chunk once, by its `seq`.
4. A live chunk beyond the next expected one is a gap: read history again from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from events import subjects
from events.errors import Unavailable
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


async def watch(
    bus: Bus, project: str, execution: str, *, start: int, ended: Callable[[int], bool], poll: float = _READ_AGAIN
) -> AsyncIterator[Chunk]:
    """Every chunk from `start`, live as it comes, until `ended(next_seq)` says that there is no more.

    `ended` is asked whenever nothing came for `poll` seconds and whenever all that is known was given; it is
    told the next sequence that would come.
    """
    splicer = Splicer(start)
    async with bus.listen(subjects.live(project, execution)) as live:
        read_from = 0
        while True:
            async for message in bus.history(subjects.OUTPUT, subjects.output(project, execution), after=read_from):
                read_from = message.sequence
                for chunk in splicer.feed(chunk_of(message)):
                    yield chunk
            async with aclosing(_until_gap(live, splicer, poll, ended)) as chunks:
                async for chunk in chunks:
                    yield chunk
            if ended(splicer.next) and not splicer.gap:
                return


async def _until_gap(
    live: AsyncIterator[Message], splicer: Splicer, poll: float, ended: Callable[[int], bool]
) -> AsyncIterator[Chunk]:
    """Live chunks until one is missing, nothing comes for `poll` seconds, or it has ended."""
    while not ended(splicer.next):
        try:
            async with asyncio.timeout(poll):
                message = await anext(live)
        except TimeoutError:
            return
        except StopAsyncIteration:
            raise Unavailable("the subscription ended") from None
        for chunk in splicer.feed(chunk_of(message)):
            yield chunk
        if splicer.gap:
            return
