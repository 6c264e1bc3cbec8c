"""Adds the table of measured runs, by which later estimates are corrected.

The migration only expands. Jobs that programs of the version before complete leave no row: they correct nothing.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "measured_run",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("family", sa.String(64), nullable=False),
        sa.Column("gpu_type", sa.String(32), nullable=False),
        sa.Column("length_tokens", sa.Integer(), nullable=False),
        sa.Column("formula_s", sa.Float(53), nullable=False),
        sa.Column("expected_s", sa.Float(53), nullable=False),
        sa.Column("took_s", sa.Float(53), nullable=False),
        sa.Column("formula_bytes", sa.BigInteger()),
        sa.Column("peak_bytes", sa.BigInteger()),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_measured_run_job_id_job", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name="pk_measured_run"),
    )
    op.create_index("ix_measured_run_family_at", "measured_run", ["family", "at"])
    op.create_index("ix_measured_run_at", "measured_run", ["at"])


def downgrade() -> None:
    """Remove the table."""
    op.drop_index("ix_measured_run_at", "measured_run")
    op.drop_index("ix_measured_run_family_at", "measured_run")
    op.drop_table("measured_run")
