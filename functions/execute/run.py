"""One execution on this worker: the lease, the attempt in the record, the attempt itself, and everything put away."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import structlog

from events import outcomes
from events.envelope import Event
from events.errors import Conflict, NotYetKnown, Retry
from events.lifecycle import Step, step
from events.models import Execute
from events.record import Attempt as AttemptRecord
from events.record import Record
from functions import logs, workspace
from functions.common.commands import NATS_SUBJECT
from functions.common.output import Fenced, fence_off
from functions.common.ownership import SECOND_LOOK, owned
from functions.common.sessions import Sessions
from functions.execute import outcome
from functions.execute.attempt import Attempt
from functions.execute.lease import Lease
from functions.execute.shop import Shop
from functions.execute.verdict import Judge

log = structlog.get_logger()


class Run:
    """`judge` may be told to end it."""

    def __init__(self, shop: Shop, task: Execute, event: Event) -> None:
        self.task = task
        self.judge = Judge()
        self._shop = shop
        self._parts = shop.parts
        self._event = event
        self._ids = (task.project_id, task.execution_id)
        self._directory = shop.parts.settings.state_dir / task.execution_id
        self._attempt: Attempt | None = None
        self._lease = Lease(
            self._parts.executions, self._parts.clock, *self._ids, worker=self._parts.worker, reclaim=self._reclaim
        )

    async def run(self) -> None:
        """Take the lease, run, end.

        Raises:
            Conflict: another worker owns it, or took it over.
            HandedOn: this worker gave it up.
        """
        record = await self._parts.records.require(*self._ids)
        if record.attempts and record.attempts[-1].ended is None:
            await self._must_be_ownerless(record)
        await self._lease.acquire(len(record.attempts) + 1)
        try:
            fenced = await fence_off(self._parts.bus, *self._ids)
            record = await self._start(fenced)
            about = logs.about(self._event.extensions.get(NATS_SUBJECT), self._event)
            structlog.contextvars.bind_contextvars(**about, attempt=len(record.attempts))
            if not record.terminal:
                self._attempt = Attempt(
                    self._shop,
                    self.task,
                    self._event,
                    lease=self._lease,
                    judge=self.judge,
                    directory=self._directory,
                )
                await self._attempt.run(record, fenced)
            await self._leave_session()
        finally:
            await workspace.discard_tree(self._directory)
            if not self._lease.lost.is_set():
                with suppress(Retry):  # it expires by itself within seconds
                    await self._lease.release()

    async def _must_be_ownerless(self, seen: Record) -> None:
        """Its newest attempt has not ended. Raises Conflict: the worker of that one lives, whether or not its lease has
        run out while NATS was away."""
        if not await owned(self._parts, seen):
            await self._parts.clock.sleep(SECOND_LOOK)
        record = await self._parts.records.require(*self._ids)
        if record.updated_at != seen.updated_at or await owned(self._parts, seen):
            raise Conflict("another worker has it")

    async def _reclaim(self, attempt: int) -> bool:
        """Whether the execution is still that attempt's; writing it anew makes an older judgement of it void."""

        def touched(record: Record) -> Record | None:
            return record.model_copy() if not record.terminal and len(record.attempts) == attempt else None

        record = await self._parts.records.change(*self._ids, touched)
        mine = not record.terminal and len(record.attempts) == attempt
        if mine and self._attempt is not None:
            # Whoever judged may have fenced the output off before it saw the record move.
            self._attempt.output_fenced(await fence_off(self._parts.bus, *self._ids))
        return mine

    async def _leave_session(self) -> None:
        """The next execution of the session may come. If this is missed, that one finds out by itself."""
        if self.task.session_id is None:
            return
        with suppress(NotYetKnown):  # destroyed meanwhile
            sessions = Sessions(self._parts.sessions, self._parts.clock)
            await sessions.done(self.task.project_id, self.task.session_id, self.task.execution_id)

    async def _start(self, fenced: Fenced) -> Record:
        """Record the attempt, or end what has no attempt left."""
        worker, now = self._parts.worker, self._parts.clock.now()

        def started(record: Record) -> Record | None:
            if record.terminal:
                return None
            record = record.model_copy(update={"last_sequence": fenced.last})
            record = record.model_copy(update={"attempts": outcome.closed(record.attempts, now, "worker_lost")})
            attempts = list(record.attempts)
            if record.cancel_requested:
                ending = outcomes.Ending(Step.CANCEL, record.cancel_why or "", requested_by=record.cancel_by)
                fact = outcomes.compose(record, ending, now)
                return self._parts.records.ended(record, ending.step, fact, cause=self._event)
            if attempts and record.attempts_spent >= record.max_attempts:
                lost = outcomes.compose(record, outcomes.worker_lost(record), now)
                return self._parts.records.ended(record, Step.FAIL, lost, cause=self._event)
            attempts.append(AttemptRecord(number=len(attempts) + 1, worker=worker, started_at=now))
            changes = {
                "state": step(record.state, Step.START),
                "attempts": attempts,
                "started_at": record.started_at or now,
                "model": self._shop.model_name(self.task) or record.model,
                "waiting_for": None,
            }
            return record.model_copy(update=changes)

        record = await self._parts.records.change(*self._ids, started)
        return await self._parts.records.publish_outbox(record)


def leftovers(state_dir: Path, running: set[str]) -> list[Path]:
    """Directories of executions that this worker does not run (an earlier process died)."""
    if not state_dir.is_dir():
        return []
    return [path for path in state_dir.iterdir() if path.is_dir() and path.name not in running and len(path.name) == 36]
