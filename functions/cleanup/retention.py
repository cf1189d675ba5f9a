"""Retention: remove expired output from the stream and expired archives from S3, and mark it in the record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import structlog

from ocf.events.errors import NotYetKnown
from ocf.events.execution_ref import ExecutionRef
from ocf.events.ports import Bus, Clock, ObjectStore
from ocf.functions.core.cleanup_schedules import RETENTION, delete_schedule
from ocf.functions.core.execution_store import Records
from ocf.functions.core.fencing_token import purge_output
from ocf.functions.core.item_backoff import Isolation
from ocf.functions.core.object_deletion import delete_execution, delete_setups
from ocf.functions.database.store import History
from ocf.functions.database.tables import Kept
from ocf.functions.settings.retention_rules import RetentionRule, rule_for

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

    async def run(self) -> None:
        """Apply the rules to what is due, by indexes of the history; without executions or rules, delete the schedule.

        The next sweep creates the schedule again. Output that is not archived has no other copy: it stays regardless
        of its age.
        """
        projects: list[str] = []
        if self.rules:
            await self._each("output_expired", lambda rule: rule.output, self._expire_output)
            await self._each("archive_expired", lambda rule: rule.archive, self._expire_archive)
            projects = await self.history.all_projects()
        for project in projects:
            await self.isolation.run("retention", project, self._expire_setups(project), project_id=project)
        if not projects:
            await delete_schedule(self.bus, RETENTION)

    async def _each(
        self, what: Kept, age: Callable[[RetentionRule], timedelta], expire: Callable[[ExecutionRef], Awaitable[None]]
    ) -> None:
        """Call `expire` for each execution whose `age` is over, and mark it: a crash in between repeats the removal."""
        now = self.clock.now()
        async for ref, ended, labels in self.history.due(what, now - min(map(age, self.rules))):
            rule = rule_for(self.rules, ref.project, labels)
            due = rule is not None and now - ended >= age(rule)
            if due and not self.isolation.is_paused("retention", ref.record_key):
                step = self._expire(what, ref, expire)
                await self.isolation.run("retention", ref.record_key, step, **ref.log_fields)

    async def _expire(self, what: Kept, ref: ExecutionRef, expire: Callable[[ExecutionRef], Awaitable[None]]) -> None:
        await expire(ref)
        with suppress(NotYetKnown):  # it has left the bucket
            mark: dict[str, bool] = {what: True}
            await self.records.change(ref.project, ref.execution, lambda newest: newest.model_copy(update=mark))
        await self.history.mark(ref, what)
        log.info("data expired", action=f"retention.{what}", **ref.log_fields)

    async def _expire_output(self, ref: ExecutionRef) -> None:
        await purge_output(self.bus, ref.project, ref.execution)

    async def _expire_archive(self, ref: ExecutionRef) -> None:
        await delete_execution(self.store, ref)

    async def _expire_setups(self, project: str) -> None:
        """Remove kept setups at the age of the project's archives; the next run makes them again."""
        rule = rule_for(self.rules, project, {})
        if rule is not None and await delete_setups(self.store, project, self.clock.now() - rule.archive):
            log.info("data expired", action="retention.setup_expired", project_id=project)
