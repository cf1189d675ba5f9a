"""The sweep: end executions without a worker, and publish facts that remain in an outbox."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from ocf.events import terminal_facts
from ocf.events.envelope import Event
from ocf.events.execution_record import Record
from ocf.events.fact_payloads import Outcome
from ocf.events.lifecycle import State, Step
from ocf.events.ports import Bucket, Bus, Clock, Entry
from ocf.functions.core.cleanup_schedules import EVICTION, RETENTION, SWEEP, delete_schedule, ensure_schedule
from ocf.functions.core.execution_store import Records
from ocf.functions.core.fencing_token import acquire_fence
from ocf.functions.core.item_backoff import Isolation
from ocf.functions.core.lease_lookup import RECHECK_SECONDS, is_leased
from ocf.functions.observability import metrics

log = structlog.get_logger()

#: Maximum time limit of an execution in seconds.
_DAY = 86_400

#: Time after the last change of a record before a missing lease counts; a lease lives 10 s.
LEASE_GRACE = timedelta(seconds=20)
#: The next attempt may wait for a slot for hours without an owner. It may only use the rest of the execution's time,
#: so the execution ends this long after that time is over.
OVERDUE_GRACE = timedelta(seconds=180)


@dataclass(frozen=True)
class Sweep:
    """The sweep. `retention` tells whether there are retention rules."""

    bus: Bus
    executions: Bucket
    records: Records
    isolation: Isolation
    clock: Clock
    retention: bool

    async def run(self, event: Event) -> None:
        """Check every open execution; delete the schedule without open executions."""
        if self.retention:
            await ensure_schedule(self.bus, RETENTION)
        if await self._check_executions(event):
            return
        await delete_schedule(self.bus, SWEEP)
        # A submit between the check and the deletion is visible here: it writes the key before the schedule.
        if await self.records.open.any():
            await ensure_schedule(self.bus, SWEEP)

    async def _check_executions(self, event: Event) -> int:
        """Check all executions; return the number that are open or may be.

        An unreadable record (of a newer release, during an upgrade) counts as open.
        """
        open_, ended = 0, False
        unreadable: set[str] = set()
        upgrade = await self.records.open.upgrade()
        if upgrade is not None:
            await self._adopt(upgrade)
        suspects: list[tuple[Record, Step]] = []

        async def check(record: Record) -> None:
            if record.outbox:
                await self.records.publish_outbox(record)
            if record.terminal:
                await self.records.open.remove(record.ref)
            elif (ending := await self._due_step(record)) is not None:
                suspects.append((record, ending))

        async def end(record: Record, ending: Step) -> None:
            if not await is_leased(self.executions, record.ref):
                await self._end(record, ending, event)

        async for record in self.records.maybe_open(unreadable):
            open_ += not record.terminal
            ended = ended or record.terminal
            await self._isolated(record, check(record))
        if ended:
            await ensure_schedule(self.bus, EVICTION)
        if suspects:
            await self.clock.sleep(RECHECK_SECONDS)
        for record, ending in suspects:
            await self._isolated(record, end(record, ending))
        return open_ + len(unreadable) + (upgrade is not None)

    async def _adopt(self, upgrade: Entry) -> None:
        """Write the keys of records of a release without them."""
        async for record in self.records.all():
            if not record.terminal or record.outbox:
                await self.records.open.add(record.ref)
        await self.records.open.end_upgrade(upgrade, self.clock.now())

    async def _isolated(self, record: Record, step: Coroutine[None, None, None]) -> None:
        """Run one record's part of the sweep: a failure affects no other record, and is retried with backoff."""
        ref = record.ref
        if self.isolation.is_paused("sweep", ref.record_key):
            step.close()
            return
        await self.isolation.run("sweep", ref.record_key, step, **ref.log_fields)

    async def _due_step(self, record: Record) -> Step | None:
        """Return the step that should end the execution now, or None."""
        now = self.clock.now()
        unowned = now - record.updated_at
        overdue = (
            now - (record.started_at or record.submitted_at) - timedelta(seconds=min(record.timeout_seconds, _DAY))
        )
        if record.state is State.RUNNING:
            if unowned < LEASE_GRACE or await is_leased(self.executions, record.ref):
                return None
            if record.cancel_requested:
                return Step.CANCEL  # the next attempt would be cancelled at once, too
            if record.attempts_spent >= record.max_attempts and record.publishing is None:
                return Step.FAIL
            # Completed work is still pushed by the next worker.
            grace = OVERDUE_GRACE if record.publishing is None else timedelta(days=1)
            return Step.TIME_OUT if overdue > grace else None
        return Step.TIME_OUT if overdue > timedelta(days=1) else None

    async def _end(self, seen: Record, taken: Step, event: Event) -> None:
        fenced = await acquire_fence(self.bus, seen.project_id, seen.execution_id)

        def decide(record: Record) -> tuple[Step, Outcome] | None:
            # The decision is for the record that was checked; if it has changed, the next sweep checks it again.
            if record.updated_at != seen.updated_at:
                return None
            return taken, _outcome(record, taken, self.clock.now(), fenced.last)

        ended = await self.records.end(seen.project_id, seen.execution_id, decide, event)
        metrics.swept.labels(ended.state.value).inc()
        log.warning(
            "execution ended by the sweep",
            action="sweep.ended",
            execution_id=ended.execution_id,
            project_id=ended.project_id,
            state=ended.state.value,
        )


def _outcome(record: Record, taken: Step, now: datetime, last_sequence: int) -> Outcome:
    ending = terminal_facts.Ending(taken)
    if taken is Step.CANCEL:
        ending = terminal_facts.Ending(taken, record.cancel_why or "", requested_by=record.cancel_by)
    elif taken is Step.FAIL:
        ending = terminal_facts.worker_lost(record)
    return terminal_facts.compose(record, ending, now, last_sequence=last_sequence)
