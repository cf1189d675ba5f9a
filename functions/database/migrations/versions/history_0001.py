"""The first tables of the history."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from ocf.functions.database.tables import Json, Key, Name, Time

revision = "0001"
down_revision = None

_COUNTS = ("requests", "input_tokens", "output_tokens", "reasoning_tokens", "cache_read_tokens", "cache_write_tokens")
#: SQLite's documentation, "External Content Tables": triggers keep the text index equal to the table.
_FTS = (
    "CREATE VIRTUAL TABLE execution_words USING fts5(words, content='task_executions', content_rowid='id')",
    "CREATE TRIGGER execution_words_insert AFTER INSERT ON task_executions BEGIN"
    " INSERT INTO execution_words(rowid, words) VALUES (new.id, new.words); END",
    "CREATE TRIGGER execution_words_delete AFTER DELETE ON task_executions BEGIN"
    " INSERT INTO execution_words(execution_words, rowid, words) VALUES ('delete', old.id, old.words); END",
    "CREATE TRIGGER execution_words_update AFTER UPDATE OF words ON task_executions"
    " WHEN old.words <> new.words BEGIN"
    " INSERT INTO execution_words(execution_words, rowid, words) VALUES ('delete', old.id, old.words);"
    " INSERT INTO execution_words(rowid, words) VALUES (new.id, new.words); END",
)
_GIN = "CREATE INDEX task_executions_words ON task_executions USING gin (to_tsvector('simple', words))"


def upgrade() -> None:
    """Create the tables."""
    op.create_table("task_executions", *_execution_columns())
    for name, columns in {
        "execution": ["execution_id"],
        "time": ["submitted_at", "execution_id", "project_id"],
        "project": ["project_id", "submitted_at", "execution_id"],
        "status": ["status", "submitted_at", "execution_id", "project_id"],
        "task": ["task_id", "submitted_at"],
        "session": ["session_id", "submitted_at"],
        "day": ["project_id", "day"],
    }.items():
        op.create_index(f"task_executions_{name}", "task_executions", columns)
    for statement in (_GIN,) if op.get_bind().dialect.name == "postgresql" else _FTS:
        op.execute(statement)
    op.create_table(
        "execution_labels",
        *_key(),
        sa.Column("name", Name),
        sa.Column("value", Name, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "execution_id", "name"),
    )
    op.create_index("execution_labels_value", "execution_labels", ["name", "value", "project_id", "execution_id"])
    op.create_table(
        "execution_attempts",
        *_key(),
        sa.Column("number", sa.Integer, autoincrement=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("started_at", Time, nullable=False),
        sa.Column("ended_at", Time),
        sa.Column("outcome", Name),
        sa.PrimaryKeyConstraint("project_id", "execution_id", "number"),
    )
    op.create_table(
        "execution_events",
        *_key(),
        sa.Column("event_id", Name),
        sa.Column("type", Name, nullable=False),
        sa.Column("time", Time, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("data", Json, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "execution_id", "event_id"),
    )
    op.create_index("execution_events_time", "execution_events", ["time"])


def _key() -> tuple[sa.Column[str], sa.Column[str]]:
    return sa.Column("project_id", Name), sa.Column("execution_id", Name)


def _execution_columns() -> list[sa.Column[Any] | sa.UniqueConstraint]:
    return [
        sa.Column("id", Key, primary_key=True, autoincrement=True),
        *(sa.Column(name, Name, nullable=False) for name in ("project_id", "execution_id")),
        *(sa.Column(name, Name) for name in ("task_id", "session_id")),
        sa.Column("status", Name, nullable=False),
        sa.Column("reason", Name),
        sa.Column("message", sa.Text),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("model", Name),
        *(sa.Column(name, Time, nullable=False) for name in ("submitted_at", "updated_at")),
        *(sa.Column(name, Time) for name in ("started_at", "ended_at")),
        sa.Column("day", Name, nullable=False),
        sa.Column("duration_ms", sa.BigInteger),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("attempt", "progress")),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _COUNTS),
        sa.Column("cost_usd", sa.Float, nullable=False),
        sa.Column("files_changed", sa.Integer, nullable=False),
        sa.Column("archived", sa.Boolean, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("result", "words")),
        sa.UniqueConstraint("project_id", "execution_id", name="task_executions_key"),
    ]


def downgrade() -> None:
    """Drop the tables; `ocf history rebuild` fills them again."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE execution_words")
    for name in ("execution_events", "execution_attempts", "execution_labels", "task_executions"):
        op.drop_table(name)
