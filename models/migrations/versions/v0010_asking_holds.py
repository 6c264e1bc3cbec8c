"""Marks the holds that a scheduling round has to look at, so that no round reads the holds of all waiting jobs.

The migration only expands. A hold that is taken already asks no more, unless its job was prepared meanwhile.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

LEAST_MS = 60_000


def upgrade() -> None:
    """Add the mark, its index, and the state of the month with which waiting jobs were compared last."""
    op.add_column("hold", sa.Column("asks", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("tenant", sa.Column("judged", sa.String(128)))
    taken = "held_ms >= :least AND (basis = 'receipt' OR job_id IN (SELECT id FROM job WHERE stage = 'prepare'))"
    op.get_bind().execute(sa.text(f"UPDATE hold SET asks = :no WHERE {taken}"), {"no": False, "least": LEAST_MS})  # noqa: S608  (constants)
    op.create_index(
        "ix_hold_asks", "hold", ["job_id"], sqlite_where=sa.text("asks = 1"), postgresql_where=sa.text("asks")
    )


def downgrade() -> None:
    """Remove the columns and the index."""
    op.drop_index("ix_hold_asks", "hold")
    op.drop_column("tenant", "judged")
    op.drop_column("hold", "asks")
