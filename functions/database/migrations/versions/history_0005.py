"""The execution that a rerun runs again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ocf.functions.database.tables import Name

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column."""
    op.add_column("task_executions", sa.Column("rerun_of", Name))


def downgrade() -> None:
    """Remove it."""
    op.drop_column("task_executions", "rerun_of")
