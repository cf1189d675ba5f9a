"""Eviction: an ended execution leaves NATS after a grace, once archive and history have it.

Its record, commands, facts and output are removed, so that NATS is as large as what runs. Its id is remembered for
`IDEMPOTENCY_DAYS` by a key with a TTL, afterwards by the manifest of its archive.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import structlog

from ocf.events import subjects
from ocf.events.ports import Bus, Clock
from ocf.events.refs import ExecutionRef
from ocf.functions.cleanup.undelivered import SUBMITS
from ocf.functions.core.execution_store import Records
from ocf.functions.core.item_backoff import Isolation
from ocf.functions.core.output_fence import purge_output
from ocf.functions.core.schedules import EVICTION, delete_schedule
from ocf.functions.database.store import CONSUMER, History

log = structlog.get_logger()


@dataclass(frozen=True)
class Eviction:
    """The eviction of executions that ended longer than `grace` ago."""

    bus: Bus
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
        async for ref, _, _ in self.history.due("evicted", self.clock.now() - self.grace):
            if not self.isolation.is_paused("eviction", ref.record_key):
                await self.isolation.run("eviction", ref.record_key, self._evict(ref), **ref.log_fields)
        if await self.history.all_evicted() and await self._complete():
            await delete_schedule(self.bus, EVICTION)

    async def _complete(self) -> bool:
        """Return whether the history has every execution: one that it does not know yet is evicted later."""
        backlog = await self.bus.backlog(CONSUMER)
        waiting = await self.bus.first(subjects.COMMANDS, SUBMITS)
        return backlog.waiting + backlog.unsettled == 0 and waiting is None

    async def _evict(self, ref: ExecutionRef) -> None:
        """Remove everything but the remembered id; the record last, so that a crash causes a repetition."""
        record = await self.records.get(ref.project, ref.execution)
        if record is not None:
            # A result that was refused may be pushed again, which changes the record.
            if not record.archived or record.outbox or (record.publishing is not None and not record.archive_expired):
                return
            await purge_output(self.bus, ref.project, ref.execution)
            await self.bus.purge(subjects.COMMANDS, ref.command("*"))
            await self.bus.purge(subjects.EVENTS, ref.fact(">"))
            await self.records.ended.evict(record, self.remembered)
            log.debug("execution evicted", action="eviction.evicted", **ref.log_fields)
        await self.history.mark(ref, "evicted", "output_expired")
