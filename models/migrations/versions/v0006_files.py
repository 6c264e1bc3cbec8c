"""Adds the table of files that came over HTTP."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "file",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("status_details", sa.Text()),
        sa.Column("rows", sa.Integer()),
        sa.Column("checks", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("check_sent_at", TIME, nullable=False),
        sa.Column("checked_until", TIME),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("deleted_at", TIME),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.name"], name="fk_file_tenant_tenant"),
        sa.PrimaryKeyConstraint("id", name="pk_file"),
    )
    op.create_index("ix_file_tenant_created_at_id", "file", ["tenant", "created_at", "id"])
    op.create_index("ix_file_status_check_sent_at", "file", ["status", "check_sent_at"])
    op.create_index("ix_file_uri", "file", ["uri"])
    op.create_index("ix_file_deleted_at", "file", ["deleted_at"])
    op.create_index("ix_file_expires_at", "file", ["expires_at"])


def downgrade() -> None:
    """Remove the table."""
    op.drop_table("file")
