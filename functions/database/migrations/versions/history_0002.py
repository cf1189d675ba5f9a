"""Expiry of archives: retention finds those that are due by an index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column and its index."""
    expired = sa.Column("archive_expired", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("task_executions", expired)
    op.create_index("task_executions_expiry", "task_executions", ["archive_expired", "ended_at", "execution_id"])


def downgrade() -> None:
    """Remove both."""
    op.drop_index("task_executions_expiry", "task_executions")
    op.drop_column("task_executions", "archive_expired")
