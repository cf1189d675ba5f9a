"""The history as the functions use it: one object, whose calls are coroutines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, text

from ocf.events import subjects
from ocf.events.envelope import Event
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.events.ports import ConsumerSpec
from ocf.events.session_record import Session
from ocf.functions.database import history_upserts, reading
from ocf.functions.database.connection import Database, engine_of
from ocf.functions.database.reading import Filter, Group, Position
from ocf.functions.database.tables import Kept

#: The consumer of the facts that become rows (`dispatcher/routes.py`); its backlog tells how far the history is behind.
CONSUMER = ConsumerSpec("history", subjects.EVENTS, ())


class History:
    """The history of all executions. Every call raises Unavailable while the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def at(cls, url: str) -> History:
        """Return the history in the database at `url`, not connected yet."""
        return cls(Database(engine_of(url)))

    async def save(self, record: Record, facts: Sequence[Event] = ()) -> None:
        """Write the rows of an execution. Raises OverflowError for a time out of range, DeadLetter for other values."""
        await self._database.run(lambda connection: history_upserts.save(connection, record, facts))

    async def save_events(self, facts: Iterable[tuple[ExecutionRef, Event]]) -> None:
        """Write the rows of facts of executions that have rows."""

        def work(connection: Connection) -> None:
            for ref, fact in facts:
                if history_upserts.exists(connection, ref):
                    history_upserts.save_events(connection, ref, [fact])

        await self._database.run(work)

    async def remove(self, ref: ExecutionRef) -> None:
        """Remove every row of an execution."""
        await self._database.run(lambda connection: history_upserts.remove(connection, ref))

    async def page(self, wanted: Filter, limit: int, after: Position | None = None) -> list[dict[str, Any]]:
        """Return the newest `limit` executions below `after`, with the fields of the gateway's `TaskSummary`."""
        return await self._database.run(lambda connection: reading.page(connection, wanted, limit, after))

    async def save_session(self, session: Session) -> None:
        """Write the row of a session. Raises as `save` does."""
        await self._database.run(lambda connection: history_upserts.save_session(connection, session))

    async def remove_session(self, ref: SessionRef) -> None:
        """Remove the row of a session."""
        await self._database.run(lambda connection: history_upserts.remove_session(connection, ref))

    async def session_page(
        self, projects: frozenset[str] | None, limit: int, after: Position | None = None
    ) -> list[tuple[SessionRef, datetime]]:
        """Return the newest `limit` sessions of the projects (None: of all) below `after`, with their creation."""
        return await self._database.run(lambda connection: reading.session_page(connection, projects, limit, after))

    async def projects_of(self, execution: str) -> list[str]:
        """Return the projects that have an execution of this id."""
        return await self._database.run(lambda connection: reading.projects_of(connection, execution))

    async def record(self, ref: ExecutionRef) -> Record | None:
        """Return an ended execution as far as its row has it, for one whose archive has expired; None without a row."""
        row = await self._database.run(lambda connection: reading.result_of(connection, ref))
        if row is None:
            return None
        fields = {name: row[name] for name in row.keys() & Record.model_fields.keys()}
        expired = {"output_expired": True, "archive_expired": True, "timeout_seconds": 0}
        return Record.model_validate({**fields, "state": row["status"], **expired})

    async def due(
        self, still: Kept, ended_before: datetime, limit: int = 500
    ) -> AsyncIterator[tuple[ExecutionRef, datetime, dict[str, str]]]:
        """Yield archived executions that are `still` to be removed from somewhere, with their end and labels."""
        after: tuple[datetime, str] | None = None
        while found := await self._database.run(
            partial(reading.due, still=still, ended_before=ended_before, after=after, limit=limit)
        ):
            for ref, ended, labels in found:
                yield ref, ended, labels
                after = (ended, ref.execution)

    async def mark(self, ref: ExecutionRef, *gone: Kept) -> None:
        """Note what is gone of an execution."""
        await self._database.run(lambda connection: history_upserts.mark(connection, ref, gone))

    async def all_evicted(self) -> bool:
        """Return whether no execution of the history is in NATS."""
        return await self._database.run(reading.all_evicted)

    async def all_projects(self) -> list[str]:
        """Return every project that has an execution."""
        return await self._database.run(reading.all_projects)

    async def pending_before(self, position: Position) -> int:
        """Return the number of pending executions that were submitted before."""
        return await self._database.run(lambda connection: reading.pending_before(connection, position))

    async def usage(self, wanted: Filter, groups: Sequence[Group]) -> list[dict[str, Any]]:
        """Return runs, results, tokens and cost by group."""
        return await self._database.run(lambda connection: reading.usage(connection, wanted, groups))

    async def reasons(self, wanted: Filter) -> dict[str, int]:
        """Return the number of failures by reason."""
        return await self._database.run(lambda connection: reading.reasons(connection, wanted))

    async def spend_today(self, project: str, now: datetime, rule: str | None = None) -> float:
        """Return the US dollars of a project's executions (or those of a rule) submitted since midnight UTC."""
        day = now.astimezone(UTC).strftime("%Y-%m-%d")
        return await self._database.run(lambda connection: reading.spend(connection, project, day, rule))

    async def count_open(self, project: str, label: tuple[str, str] | None = None) -> int:
        """Return the number of pending and running executions of a project, or of those with `label`."""
        wanted = Filter(frozenset({project}), labels=(label,) if label else ())
        return await self._database.run(lambda connection: reading.count_open(connection, wanted))

    async def ready(self) -> None:
        """Raise Unavailable unless the database answers."""
        await self._database.run(lambda connection: connection.execute(text("SELECT 1")).close())

    def close(self) -> None:
        """Close all connections."""
        self._database.close()
