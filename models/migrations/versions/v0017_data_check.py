"""Adds the table of checks of data over HTTP.

The migration only expands: programs of the version before neither write nor read the table.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "data_check",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("file_names", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON()),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("claimed_until", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.name"], name="fk_data_check_tenant_tenant"),
        sa.PrimaryKeyConstraint("id", name="pk_data_check"),
    )
    op.create_index("ix_data_check_expires_at", "data_check", ["expires_at"])
    op.create_index("ix_data_check_tenant", "data_check", ["tenant"])


def downgrade() -> None:
    """Remove the table."""
    op.drop_index("ix_data_check_tenant", "data_check")
    op.drop_index("ix_data_check_expires_at", "data_check")
    op.drop_table("data_check")
