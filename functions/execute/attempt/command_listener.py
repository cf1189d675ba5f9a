"""What is said to a running execution: straight from NATS, and from the stream what did not come that way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import structlog

from ocf.events import subjects
from ocf.events.commands import Cancel, Reply
from ocf.events.envelope import decode, parse
from ocf.events.errors import OcfError, Retry
from ocf.events.ports import Bus, Clock, Message

log = structlog.get_logger()

#: NATS delivers at once and only once: what is said while the connection is away is in the stream alone. So it is read
#: this often; it costs two direct gets that find nothing.
POLL_SECONDS = 2.0
_PATIENCE = 2.0


class CommandListener:
    """Cancel and reply commands of one execution, each given to `take` once, whichever way it comes first."""

    def __init__(
        self, bus: Bus, clock: Clock, project: str, execution: str, *, look_every: float = POLL_SECONDS
    ) -> None:
        self._look_every = look_every
        self._bus = bus
        self._clock = clock
        self._ids = (project, execution)
        self._after = {subjects.command(verb, project, execution): 0 for verb in ("cancel", "reply")}
        self._heard: set[tuple[str, str]] = set()

    def listen(self) -> AbstractAsyncContextManager[AsyncIterator[Message]]:
        """Messages from now on; for `live`."""
        return self._bus.listen(*self._after)

    async def live(self, commands: AsyncIterator[Message], take: Callable[[Cancel | Reply], None]) -> None:
        """Take them as they come, no hop in between."""
        async for message in commands:
            self._once(message, take)

    async def kept(self, take: Callable[[Cancel | Reply], None]) -> None:
        """Take what the stream has more than at the last look.

        Raises:
            Unavailable: NATS does not answer.
        """
        for subject in self._after:
            async for message in self._bus.history(subjects.COMMANDS, subject, after=self._after[subject]):
                self._after[subject] = message.sequence
                self._once(message, take)

    async def keep_looking(self, take: Callable[[Cancel | Reply], None]) -> None:
        """`kept`, for ever."""
        while True:
            await self._clock.sleep(self._look_every)
            try:
                # Asked on a connection that has just died, the answer never comes: the next look is on a new one.
                async with asyncio.timeout(_PATIENCE):
                    await self.kept(take)
            except (Retry, TimeoutError) as error:
                log.info("commands not read", action="run.commands_not_read", reason=str(error), **self._named)

    def _once(self, message: Message, take: Callable[[Cancel | Reply], None]) -> None:
        try:
            event = decode(message.headers, message.data)
            data = parse(event)
        except OcfError as error:
            log.info("command ignored", action="run.command_ignored", reason=str(error), **self._named)
            return
        named = (message.subject, event.id)
        if named not in self._heard and isinstance(data, Cancel | Reply):
            self._heard.add(named)
            take(data)

    @property
    def _named(self) -> dict[str, str]:
        return {"project_id": self._ids[0], "execution_id": self._ids[1]}
