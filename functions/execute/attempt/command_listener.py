"""Commands to a running execution: listened to and carried out.

They arrive live from NATS, and from the stream when they were missed during an outage.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager

import structlog

from ocf.events import subjects
from ocf.events.command_payloads import Cancel, Reply
from ocf.events.envelope import decode, parse
from ocf.events.errors import OcfError, Retry
from ocf.events.lifecycle import Step
from ocf.events.output import status_draft
from ocf.events.ports import Bus, Clock, Message
from ocf.functions.execute.attempt.agent_run import FOLLOW_UP, AgentRun
from ocf.functions.execute.attempt.output_publisher import Publisher
from ocf.functions.execute.attempt.record_progress import Progress
from ocf.functions.execute.attempt.stop_signal import StopReason, StopSignal
from ocf.functions.execute.attempt.watchdog import Activity

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


class CommandHandler:
    """Carries out the commands to one attempt."""

    def __init__(
        self,
        agent_run: AgentRun,
        stop_signal: StopSignal,
        publisher: Publisher,
        progress: Progress,
        activity: Activity,
        clock: Clock,
    ) -> None:
        self._agent_run = agent_run
        self._stop_signal = stop_signal
        self._publisher = publisher
        self._progress = progress
        self._activity = activity
        self._clock = clock
        #: Monotonic time of the last cancel command.
        self.cancel_received_at: float | None = None
        #: Set by every cancel command. After the stop reason is decided, a cancel ends the wait for S3.
        self.cancelled = asyncio.Event()
        #: Answers on their way to the agent.
        self.replying: set[asyncio.Task[None]] = set()

    def carry_out(self, data: Cancel | Reply) -> None:
        """Carry out a command: cancel at once, answer in the background."""
        if isinstance(data, Cancel):
            self.cancel_received_at = self._clock.monotonic()
            self.cancelled.set()
            self._agent_run.refuse("the execution is being cancelled")
            self._stop_signal.decide(StopReason(Step.CANCEL, data.why or "", requested_by=data.requested_by))
        else:
            self.reply(data.request_id, data.answer)

    def reply(self, request_id: str, answer: str) -> None:
        """Answer a request of the agent. Not awaited: a later cancel must not wait for OpenCode."""
        self.replying.add(asyncio.create_task(self._reply(request_id, answer)))

    def carry_out_earlier(self, data: Cancel | Reply) -> None:
        """Carry out a command published before this attempt listened.

        A retry starts over. It takes up every follow-up prompt again, but ignores other replies: they answered requests
        of an earlier attempt.
        """
        if isinstance(data, Cancel) or data.request_id == FOLLOW_UP:
            self.carry_out(data)

    async def _reply(self, request_id: str, answer: str) -> None:
        if await self._agent_run.reply(request_id, answer):
            if request_id != FOLLOW_UP:
                self.set_waiting(self._agent_run.waiting - {request_id})
        elif self._stop_signal.stop_reason is None:
            what = "a follow-up prompt came too late" if request_id == FOLLOW_UP else "nobody waits for an answer"
            await self._publisher.emit(status_draft(f"{what} ({request_id[:80]})", "agent"))

    def set_waiting(self, requests: Collection[str]) -> None:
        """State which requests wait for an answer."""
        self._activity.waiting = bool(requests)
        self._progress.retain_requests(requests)
