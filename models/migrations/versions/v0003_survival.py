"""Adds columns for pause, retry, the memory ladder, back-off, and the facts about a worker's device.

The migration only expands: every new column has a default that describes the rows from before it.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _job() -> list[sa.Column[Any]]:
    return [
        sa.Column("pause_requested", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("paused", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("not_before", sa.DateTime(timezone=True)),
        sa.Column("least_memory_bytes", sa.BigInteger()),
        sa.Column("adjusted", sa.JSON()),
        sa.Column("faults", sa.JSON()),
        sa.Column("retry_of", sa.String(64)),
        sa.Column("resume_of", sa.String(64)),
        sa.Column("train_s", sa.Float(53), nullable=False, server_default=sa.text("0")),
    ]


def _worker() -> list[sa.Column[Any]]:
    return [
        sa.Column("cordoned", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("drain_asked", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("health", sa.String(16), nullable=False, server_default="ok"),
        sa.Column("device_faults", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("foreign_bytes", sa.BigInteger()),
        sa.Column("note", sa.Text()),
    ]


def upgrade() -> None:
    """Add the columns and the tables."""
    for table, columns in (("job", _job()), ("worker", _worker())):
        for column in columns:
            op.add_column(table, column)
    op.create_table(
        "safe_batch",
        sa.Column("base", sa.String(255), nullable=False),
        sa.Column("gpu_type", sa.String(32), nullable=False),
        sa.Column("max_length", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("micro_batch", sa.Integer(), nullable=False),
        sa.Column("gradient_checkpointing", sa.Boolean(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("base", "gpu_type", "max_length", name="pk_safe_batch"),
    )
    op.create_table(
        "beacon",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_beacon"),
    )


def downgrade() -> None:
    """Remove the columns and the tables."""
    op.drop_table("beacon")
    op.drop_table("safe_batch")
    for table, columns in (("worker", _worker()), ("job", _job())):
        for column in reversed(columns):
            op.drop_column(table, column.name)
