"""Adds the columns of a worker about its trainer host.

The migration only expands: a program of the version before writes none of the columns, and has no such host.
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

COLUMNS = ("resident", "host_restart_asked", "faulted_host")


def upgrade() -> None:
    """Add the columns."""
    with op.batch_alter_table("worker") as table:
        table.add_column(sa.Column("resident", sa.JSON()))
        table.add_column(sa.Column("host_restart_asked", sa.Boolean(), nullable=False, server_default=sa.false()))
        table.add_column(sa.Column("faulted_host", sa.String(64)))


def downgrade() -> None:
    """Remove the columns."""
    with op.batch_alter_table("worker") as table:
        for name in COLUMNS:
            table.drop_column(name)
