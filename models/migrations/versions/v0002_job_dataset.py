"""Adds the table of the dataset versions that each job used."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "job_dataset",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("role", sa.String(64), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_job_dataset_job_id_job", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name="fk_job_dataset_dataset_id_dataset"),
        sa.PrimaryKeyConstraint("job_id", "role", name="pk_job_dataset"),
    )
    op.create_index("ix_job_dataset_dataset_id", "job_dataset", ["dataset_id"])


def downgrade() -> None:
    """Remove the table."""
    op.drop_table("job_dataset")
