"""Costs of executions that were removed, for the budgets of their day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ocf.functions.database.tables import Key, Name

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the table, empty: what was removed before is not known."""
    op.create_table(
        "removed_costs",
        sa.Column("id", Key, primary_key=True, autoincrement=True),
        sa.Column("project_id", Name, nullable=False),
        sa.Column("day", Name, nullable=False),
        sa.Column("rule", Name),
        sa.Column("cost_usd", sa.Float, nullable=False),
    )
    op.create_index("removed_costs_day", "removed_costs", ["project_id", "day"])


def downgrade() -> None:
    """Remove it."""
    op.drop_table("removed_costs")
