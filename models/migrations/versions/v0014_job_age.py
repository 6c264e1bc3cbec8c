"""Adds the index by which an operator lists the jobs of all tenants, the newest first."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.create_index("ix_job_created_at_id", "job", ["created_at", "id"])


def downgrade() -> None:
    """Remove the index."""
    op.drop_index("ix_job_created_at_id", "job")
