"""Eviction: an ended execution leaves NATS after a grace, once archive and history have it.

Its record, commands, facts and output are removed, so that NATS is as large as what runs. Its id is remembered for
`IDEMPOTENCY_DAYS` by a key with a TTL, afterwards by the manifest of its archive.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import structlog

from ocf.events import subjects
from ocf.events.envelope import Event
from ocf.events.execution_record import Record
from ocf.events.ports import Bus, Clock
from ocf.events.refs import ExecutionRef
from ocf.functions.core.execution_store import Records
from ocf.functions.core.item_backoff import Isolation
from ocf.functions.core.output_fence import purge_output
from ocf.functions.core.schedules import EVICTION, delete_schedule, ensure_schedule, is_expiring
from ocf.functions.database.store import History

log = structlog.get_logger()

#: Executions of one query.
_BATCH = 200


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

    async def run(self, event: Event) -> None:
        """Evict every execution that is due; without ended ones, delete the schedule.

        Raises:
            Unavailable: The database, NATS or S3 does not answer; the next run tries again.
        """
        ended = 0
        due: list[Record] = []
        async for record in self.records.all():
            ended += record.terminal
            if self._is_due(record):
                due.append(record)
            if len(due) == _BATCH:
                await self._evict_stored(due)
                due = []
        await self._evict_stored(due)
        if not ended:
            await delete_schedule(self.bus, EVICTION)
        elif is_expiring(event, self.clock.now()):
            await ensure_schedule(self.bus, EVICTION, refresh=True)

    def _is_due(self, record: Record) -> bool:
        # A result that was refused may be pushed again, which changes the record.
        if not record.terminal or not record.archived or record.outbox or record.publishing is not None:
            return False
        return record.ended_at is not None and self.clock.now() - record.ended_at >= self.grace

    async def _evict_stored(self, due: list[Record]) -> None:
        """Evict those whose row shows their end and their archive."""
        stored = await self.history.archived_of([_ref(record) for record in due]) if due else set()
        for record in due:
            ref = _ref(record)
            if ref in stored and not self.isolation.is_paused("eviction", ref.record_key):
                await self.isolation.run("eviction", ref.record_key, self._evict(record), **ref.log_fields)

    async def _evict(self, record: Record) -> None:
        """Remove everything but the remembered id; the record last, so that a crash causes a repetition."""
        ref = _ref(record)
        await purge_output(self.bus, ref.project, ref.execution)
        await self.bus.purge(subjects.COMMANDS, ref.command("*"))
        await self.bus.purge(subjects.EVENTS, ref.fact(">"))
        await self.records.ended.evict(record, self.remembered)
        log.debug("execution evicted", action="eviction.evicted", **ref.log_fields)


def _ref(record: Record) -> ExecutionRef:
    return ExecutionRef(record.project_id, record.execution_id)
