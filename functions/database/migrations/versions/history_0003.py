"""Pages by label and sums of a day without reading other rows: the label's index has the time, the day's the cost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ocf.functions.database.tables import Time

revision = "0003"
down_revision = "0002"

_FILL = (
    "UPDATE execution_labels SET submitted_at = (SELECT e.submitted_at FROM task_executions e"
    " WHERE e.project_id = execution_labels.project_id AND e.execution_id = execution_labels.execution_id)"
)


def upgrade() -> None:
    """Add the column and the indexes."""
    op.add_column("execution_labels", sa.Column("submitted_at", Time))
    op.execute(_FILL)
    place = ["project_id", "name", "value", "submitted_at", "execution_id"]
    op.create_index("execution_labels_time", "execution_labels", place)
    op.drop_index("task_executions_day", "task_executions")
    op.create_index("task_executions_day", "task_executions", ["project_id", "day", "cost_usd"])


def downgrade() -> None:
    """Remove them."""
    op.drop_index("task_executions_day", "task_executions")
    op.create_index("task_executions_day", "task_executions", ["project_id", "day"])
    op.drop_index("execution_labels_time", "execution_labels")
    op.drop_column("execution_labels", "submitted_at")
