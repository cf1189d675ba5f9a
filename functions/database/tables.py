"""The tables (docs/reference/history.md). `migrations/` creates them; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()
#: Columns of what an ended execution has until they are true: an archive, output in its stream, anything in NATS.
Kept = Literal["archive_expired", "output_expired", "evicted"]


class Time(TypeDecorator[datetime]):
    """A time in UTC; SQLite stores it without a zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a parameter to UTC."""
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return a stored time as UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


#: Compared byte by byte in both dialects, so that a prefix is a range.
Name = String().with_variant(String(collation="C"), "postgresql")
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
Key = BigInteger().with_variant(Integer(), "sqlite")

executions = Table(
    "task_executions",
    metadata,
    # SQLite's text index refers to rows by it.
    Column("id", Key, primary_key=True, autoincrement=True),
    Column("project_id", Name, nullable=False),
    Column("execution_id", Name, nullable=False),
    Column("task_id", Name),
    Column("session_id", Name),
    Column("status", Name, nullable=False),
    Column("reason", Name),
    Column("message", Text),
    Column("title", Text, nullable=False),
    Column("labels", Json, nullable=False),
    Column("model", Name),
    Column("submitted_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("started_at", Time),
    Column("ended_at", Time),
    #: Day of the submission in UTC, as in 2026-11-29.
    Column("day", Name, nullable=False),
    Column("duration_ms", BigInteger),
    Column("first_output_ms", BigInteger),
    Column("attempt", Integer, nullable=False),
    Column("progress", Integer, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cache_read_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("files_changed", Integer, nullable=False),
    Column("archived", Boolean, nullable=False),
    Column("archive_expired", Boolean, nullable=False, server_default=false()),
    #: The output is no longer in its stream; the execution has left NATS.
    Column("output_expired", Boolean, nullable=False, server_default=false()),
    Column("evicted", Boolean, nullable=False, server_default=false()),
    Column("rerun_of", Name),
    Column("result", Text, nullable=False),
    #: Words of title and result, in lower case, for the text index.
    Column("words", Text, nullable=False),
    UniqueConstraint("project_id", "execution_id", name="task_executions_key"),
    Index("task_executions_execution", "execution_id"),
    Index("task_executions_time", "submitted_at", "execution_id", "project_id"),
    Index("task_executions_project", "project_id", "submitted_at", "execution_id"),
    Index("task_executions_status", "status", "submitted_at", "execution_id", "project_id"),
    Index("task_executions_task", "task_id", "submitted_at"),
    Index("task_executions_session", "session_id", "submitted_at"),
    Index("task_executions_rerun", "rerun_of", "submitted_at"),
    Index("task_executions_day", "project_id", "day", "cost_usd"),
    Index("task_executions_expiry", "archive_expired", "ended_at", "execution_id"),
    Index("task_executions_output_expiry", "output_expired", "ended_at", "execution_id"),
    Index("task_executions_eviction", "evicted", "ended_at", "execution_id"),
)

labels = Table(
    "execution_labels",
    metadata,
    Column("project_id", Name),
    Column("execution_id", Name),
    Column("name", Name),
    Column("value", Name, nullable=False),
    #: As in `task_executions`, for pages in the order of an index.
    Column("submitted_at", Time),
    PrimaryKeyConstraint("project_id", "execution_id", "name"),
    Index("execution_labels_time", "project_id", "name", "value", "submitted_at", "execution_id"),
    Index("execution_labels_value", "name", "value", "project_id", "execution_id"),
)

attempts = Table(
    "execution_attempts",
    metadata,
    Column("project_id", Name),
    Column("execution_id", Name),
    Column("number", Integer, autoincrement=False),
    Column("worker", Text, nullable=False),
    Column("started_at", Time, nullable=False),
    Column("ended_at", Time),
    Column("outcome", Name),
    PrimaryKeyConstraint("project_id", "execution_id", "number"),
)

#: What removed executions have cost, without their ids: removing one gives no budget back. Rows of earlier days go.
removed_costs = Table(
    "removed_costs",
    metadata,
    Column("id", Key, primary_key=True, autoincrement=True),
    Column("project_id", Name, nullable=False),
    Column("day", Name, nullable=False),
    #: Label `trigger`: the rule that has started it.
    Column("rule", Name),
    Column("cost_usd", Float, nullable=False),
    Index("removed_costs_day", "project_id", "day"),
)

#: The sessions that exist, for their order; everything else about them is in their records.
sessions = Table(
    "sessions",
    metadata,
    Column("project_id", Name),
    Column("session_id", Name),
    Column("created_at", Time, nullable=False),
    Column("labels", Json, nullable=False),
    PrimaryKeyConstraint("project_id", "session_id"),
    Index("sessions_time", "created_at", "session_id", "project_id"),
    Index("sessions_project", "project_id", "created_at", "session_id"),
)

events = Table(
    "execution_events",
    metadata,
    Column("project_id", Name),
    Column("execution_id", Name),
    Column("event_id", Name),
    Column("type", Name, nullable=False),
    Column("time", Time, nullable=False),
    Column("source", Text, nullable=False),
    #: Without members above 1 KiB, which are in the archive.
    Column("data", Json, nullable=False),
    PrimaryKeyConstraint("project_id", "execution_id", "event_id"),
    Index("execution_events_time", "time"),
)
