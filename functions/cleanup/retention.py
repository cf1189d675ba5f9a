"""Retention: remove expired output from the stream and expired archives from S3, and mark it in the record."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import structlog

from ocf.events.envelope import Event
from ocf.events.errors import NotYetKnown
from ocf.events.execution_record import Record
from ocf.events.ports import Bus, Clock, ObjectStore
from ocf.events.refs import ExecutionRef
from ocf.functions.core.execution_store import Records
from ocf.functions.core.item_backoff import Isolation
from ocf.functions.core.output_fence import purge_output
from ocf.functions.core.schedules import RETENTION, delete_schedule, ensure_schedule, is_expiring
from ocf.functions.core.stored_objects import delete_execution, delete_setups
from ocf.functions.database.store import History
from ocf.functions.settings.retention_rules import RetentionRule, rule_for

#: Archives of one query.
_BATCH = 500

log = structlog.get_logger()


@dataclass(frozen=True)
class Retention:
    """The retention by `rules`."""

    bus: Bus
    store: ObjectStore
    records: Records
    history: History
    isolation: Isolation
    clock: Clock
    rules: tuple[RetentionRule, ...]

    async def run(self, event: Event) -> None:
        """Apply the rules to every ended execution; without records or rules, delete the schedule.

        The next sweep creates the schedule again.
        """
        known, projects = False, set[str]()
        async for record in self.records.all():
            known = True
            projects.add(record.project_id)
            ref = ExecutionRef(record.project_id, record.execution_id)
            if record.ended_at is not None and not self.isolation.is_paused("retention", ref.record_key):
                step = self._apply(record, self.clock.now())
                await self.isolation.run("retention", ref.record_key, step, **ref.log_fields)
        if self.rules:
            await self._expire_archives()
            projects |= set(await self.history.all_projects())
        for project in projects:
            await self.isolation.run("retention", project, self._expire_setups(project), project_id=project)
        if not (known or projects) or not self.rules:
            await delete_schedule(self.bus, RETENTION)
        elif is_expiring(event, self.clock.now()):
            await ensure_schedule(self.bus, RETENTION, refresh=True)

    async def _apply(self, record: Record, now: datetime) -> None:
        rule = rule_for(self.rules, record.project_id, record.labels)
        # Output that is not archived has no other copy: it stays regardless of its age.
        if rule is None or record.ended_at is None or not record.archived:
            return
        age = now - record.ended_at
        if age >= rule.output and not record.output_expired:
            await purge_output(self.bus, record.project_id, record.execution_id)
            await self._mark(record, "output_expired")
        if age >= rule.archive and not record.archive_expired:
            await delete_execution(self.store, ExecutionRef(record.project_id, record.execution_id))
            await self._mark(record, "archive_expired")

    async def _expire_archives(self) -> None:
        """Remove the archives that are due, found by an index of the history: their records have left the bucket."""
        now = self.clock.now()
        after: tuple[datetime, str] | None = None
        while found := await self.history.archives(now - min(rule.archive for rule in self.rules), after, _BATCH):
            for ref, ended, labels in found:
                rule = rule_for(self.rules, ref.project, labels)
                due = rule is not None and now - ended >= rule.archive
                if due and not self.isolation.is_paused("retention", ref.record_key):
                    await self.isolation.run("retention", ref.record_key, self._expire(ref), **ref.log_fields)
                after = (ended, ref.execution)

    async def _expire(self, ref: ExecutionRef) -> None:
        await delete_execution(self.store, ref)
        await self.history.expire(ref)
        log.info("data expired", action="retention.archive_expired", **ref.log_fields)

    async def _expire_setups(self, project: str) -> None:
        """Remove kept setups at the age of the project's archives; the next run makes them again."""
        rule = rule_for(self.rules, project, {})
        if rule is not None and await delete_setups(self.store, project, self.clock.now() - rule.archive):
            log.info("data expired", action="retention.setup_expired", project_id=project)

    async def _mark(self, record: Record, what: str) -> None:
        """Mark the removal in the record, after it: a crash in between repeats the removal, which is harmless."""
        try:
            await self.records.change(
                record.project_id, record.execution_id, lambda newest: newest.model_copy(update={what: True})
            )
        except NotYetKnown:
            return  # deleted meanwhile
        log.info(
            "data expired",
            action=f"retention.{what}",
            execution_id=record.execution_id,
            project_id=record.project_id,
        )
