"""Adds the name of a dataset's file as its user wrote it; versions from before have none."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("dataset", sa.Column("file_name", sa.Text()))


def downgrade() -> None:
    """Remove the column."""
    op.drop_column("dataset", "file_name")
