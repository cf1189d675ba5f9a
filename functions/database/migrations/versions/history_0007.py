"""Sessions in the order of their creation; time to the first output."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ocf.functions.database.tables import Json, Name, Time

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create the table, which setup fills, and add the column."""
    op.add_column("task_executions", sa.Column("first_output_ms", sa.BigInteger))
    op.create_table(
        "sessions",
        sa.Column("project_id", Name),
        sa.Column("session_id", Name),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "session_id"),
    )
    op.create_index("sessions_time", "sessions", ["created_at", "session_id", "project_id"])
    op.create_index("sessions_project", "sessions", ["project_id", "created_at", "session_id"])


def downgrade() -> None:
    """Remove both; the records have everything."""
    op.drop_table("sessions")
    op.drop_column("task_executions", "first_output_ms")
