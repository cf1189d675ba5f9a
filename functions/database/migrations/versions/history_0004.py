"""Flags of what has left NATS: eviction and the retention of output find what is due by an index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_INDEXES = {"output_expired": "task_executions_output_expiry", "evicted": "task_executions_eviction"}


def upgrade() -> None:
    """Add the columns and their indexes."""
    for name, index in _INDEXES.items():
        op.add_column("task_executions", sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false()))
        op.create_index(index, "task_executions", [name, "ended_at", "execution_id"])


def downgrade() -> None:
    """Remove them."""
    for name, index in _INDEXES.items():
        op.drop_index(index, "task_executions")
        op.drop_column("task_executions", name)
