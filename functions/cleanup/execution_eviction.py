"""Eviction: an ended execution leaves NATS after a grace, once archive and history have it.

Its record, commands, facts and output are removed, so that NATS is as large as what runs. Its id is remembered for
`IDEMPOTENCY_DAYS` by a key with a TTL, afterwards by the manifest of its archive.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from ocf.events import subjects
from ocf.events.archive_manifest import update_manifest
from ocf.events.execution_ref import ExecutionRef
from ocf.events.ports import Backlog, Bus, Clock, ObjectStore
from ocf.functions.cleanup.undelivered import SUBMITS
from ocf.functions.core.cleanup_schedules import EVICTION, delete_schedule
from ocf.functions.core.execution_store import Records
from ocf.functions.core.fencing_token import purge_output
from ocf.functions.core.item_backoff import Isolation
from ocf.functions.core.object_deletion import delete_execution
from ocf.functions.database.store import CONSUMER, History
from ocf.functions.settings.event_sinks import RETRIED_FOR, SINK_CONSUMERS

log = structlog.get_logger()


@dataclass(frozen=True)
class Eviction:
    """The eviction of executions that ended longer than `grace` ago."""

    bus: Bus
    store: ObjectStore
    records: Records
    history: History
    isolation: Isolation
    clock: Clock
    grace: timedelta
    remembered: timedelta

    async def run(self) -> None:
        """Evict every execution that is due; delete the schedule when the history knows none in NATS.

        Raises:
            Unavailable: The database, NATS or S3 does not answer; the next run tries again.
        """
        sent = await self._sent()
        async for ref, ended, _ in self.history.due("evicted", self.clock.now() - self.grace):
            if not self.isolation.is_paused("eviction", ref.record_key):
                step = self._evict(ref, ended, sent)
                await self.isolation.run("eviction", ref.record_key, step, **ref.log_fields)
        if await self.history.all_evicted() and await self._complete():
            await delete_schedule(self.bus, EVICTION)

    async def _complete(self) -> bool:
        """Return whether the history has every execution: one that it does not know yet is evicted later."""
        backlog = await self.bus.backlog(CONSUMER)
        waiting = await self.bus.first(subjects.COMMANDS, SUBMITS)
        return backlog.waiting + backlog.unsettled == 0 and waiting is None

    async def _sent(self) -> int | None:
        """Return the stream sequence up to which every sink has received the facts; None if no sink is behind."""
        states = await self.bus.consumers(subjects.EVENTS)
        behind = (one for one in states if one.name.startswith(SINK_CONSUMERS) and one.backlog != Backlog(0, 0))
        return min((one.acknowledged for one in behind), default=None)

    async def _awaited(self, ref: ExecutionRef, ended: datetime, sent: int | None) -> bool:
        """Return whether a sink may still receive a fact; a forgotten consumer holds it for the same time."""
        if sent is None or self.clock.now() - ended > RETRIED_FOR:
            return False
        newest = await self.bus.last(subjects.EVENTS, ref.fact(">"))
        return newest is not None and newest.sequence > sent

    async def _evict(self, ref: ExecutionRef, ended: datetime, sent: int | None) -> None:
        """Remove everything but the remembered id; the record last, so that a crash causes a repetition."""
        if await self._awaited(ref, ended, sent):
            return
        record = await self.records.get(ref.project, ref.execution)
        if record is not None:
            if record.outbox:
                await self.records.publish_outbox(record)
                return
            # A result that was refused may be pushed again, which changes the record.
            if not record.archived or (record.publishing is not None and not record.archive_expired):
                return
            if await update_manifest(self.store, record) and await self.records.get(ref.project, ref.execution) is None:
                await delete_execution(self.store, ref)  # deleted meanwhile
                return
            await purge_output(self.bus, ref.project, ref.execution)
            await self.bus.purge(subjects.COMMANDS, ref.command("*"))
            await self.bus.purge(subjects.EVENTS, ref.fact(">"))
            await self.records.ended.evict(record, self.remembered)
            log.debug("execution evicted", action="eviction.evicted", **ref.log_fields)
        await self.history.mark(ref, "evicted", "output_expired")
