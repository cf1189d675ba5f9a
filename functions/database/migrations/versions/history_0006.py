"""An index for the reruns of an execution."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the index."""
    op.create_index("task_executions_rerun", "task_executions", ["rerun_of", "submitted_at"])


def downgrade() -> None:
    """Remove it."""
    op.drop_index("task_executions_rerun", "task_executions")
