"""Commands to a running execution: live from NATS, and from the stream for those missed during an outage."""

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

#: Seconds between two reads of the stream. Core NATS delivers a message only once, so a command published while the
#: connection is away is in the stream alone. A read that finds nothing costs two direct gets.
POLL_SECONDS = 2.0
_READ_SECONDS = 2.0


class CommandListener:
    """Cancel and reply commands of one execution, each passed to `take` once, from whichever source is first."""

    def __init__(
        self, bus: Bus, clock: Clock, project: str, execution: str, *, poll_every: float = POLL_SECONDS
    ) -> None:
        self._poll_every = poll_every
        self._bus = bus
        self._clock = clock
        self._ids = (project, execution)
        self._after = {subjects.command(verb, project, execution): 0 for verb in ("cancel", "reply")}
        self._seen: set[tuple[str, str]] = set()

    def listen(self) -> AbstractAsyncContextManager[AsyncIterator[Message]]:
        """Subscribe to commands published from now on; pass the messages to `follow`."""
        return self._bus.listen(*self._after)

    async def follow(self, commands: AsyncIterator[Message], take: Callable[[Cancel | Reply], None]) -> None:
        """Pass live commands to `take` as they arrive."""
        async for message in commands:
            self._take_once(message, take)

    async def catch_up(self, take: Callable[[Cancel | Reply], None]) -> None:
        """Pass the commands that the stream has stored since the last read to `take`."""
        for subject in self._after:
            async for message in self._bus.history(subjects.COMMANDS, subject, after=self._after[subject]):
                self._after[subject] = message.sequence
                self._take_once(message, take)

    async def poll(self, take: Callable[[Cancel | Reply], None]) -> None:
        """Call `catch_up` every `poll_every` seconds, until cancelled."""
        while True:
            await self._clock.sleep(self._poll_every)
            try:
                # On a connection that has just died the answer never arrives; the next read uses a new one.
                async with asyncio.timeout(_READ_SECONDS):
                    await self.catch_up(take)
            except (Retry, TimeoutError) as error:
                log.info("commands not read", action="run.commands_not_read", reason=str(error), **self._log_fields)

    def _take_once(self, message: Message, take: Callable[[Cancel | Reply], None]) -> None:
        try:
            event = decode(message.headers, message.data)
            data = parse(event)
        except OcfError as error:
            log.info("command ignored", action="run.command_ignored", reason=str(error), **self._log_fields)
            return
        key = (message.subject, event.id)
        if key not in self._seen and isinstance(data, Cancel | Reply):
            self._seen.add(key)
            take(data)

    @property
    def _log_fields(self) -> dict[str, str]:
        return {"project_id": self._ids[0], "execution_id": self._ids[1]}
