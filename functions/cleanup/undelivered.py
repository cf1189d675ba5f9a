"""Commands that no function has taken: rejected before the stream drops them, so that each ends with a fact."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import structlog

from ocf.events import subjects
from ocf.events.errors import InvalidEvent
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import FieldError
from ocf.events.lifecycle import State
from ocf.events.ports import Bus, Clock, Message
from ocf.events.streams import COMMANDS_AGE, DAY
from ocf.functions.core.execution_store import Records
from ocf.functions.core.item_backoff import Isolation
from ocf.functions.core.publish_rejection import Rejections
from ocf.functions.core.session_store import Sessions

log = structlog.get_logger()

SUBMITS, _SESSIONS = "ocf.cmd.submit.>", "ocf.cmd.session.>"
#: A day before the stream would drop the command.
_AGE = timedelta(seconds=COMMANDS_AGE - DAY)
_ERROR = FieldError(field="event", message=f"was not delivered within {_AGE.days} days; submit it again")


@dataclass(frozen=True)
class Undelivered:
    """Submits and session commands that are about to expire. The commands of what exists stay with it."""

    bus: Bus
    records: Records
    sessions: Sessions
    rejections: Rejections
    isolation: Isolation
    clock: Clock

    async def run(self) -> None:
        """Reject those that are old and without a record; reads the stream from its oldest, until one is young."""
        for pattern in (SUBMITS, _SESSIONS):
            after = 0
            while (message := await self.bus.first(subjects.COMMANDS, pattern, after=after)) is not None:
                if message.time is None or self.clock.now() - message.time < _AGE:
                    break
                after = message.sequence
                await self.isolation.run("undelivered", message.subject, self._reject(message))

    async def _reject(self, message: Message) -> None:
        try:
            parsed = subjects.parse(message.subject)
        except InvalidEvent:
            return  # the dispatcher makes it a dead letter
        if parsed.verb == "session":
            known: object = await self.sessions.get(parsed.project, parsed.entity)
        else:
            ref = ExecutionRef(parsed.project, parsed.entity)
            record = await self.records.get(ref.project, ref.execution)
            # An earlier run may have ended between its record of the rejection and the fact.
            unsaid = (
                record is not None
                and record.state is State.REJECTED
                and await self.bus.last(subjects.EVENTS, ref.fact("rejected")) is None
            )
            known = not unsaid and (record or await self.records.ended.used(ref))
        if known:
            return
        await self.rejections.reject_message(message, None, [_ERROR])
        await self.bus.purge(subjects.COMMANDS, message.subject)
        log.warning("command not delivered", action="undelivered.rejected", subject=message.subject)
