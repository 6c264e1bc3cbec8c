"""Adds the tables of schedules and of the outcome of each of their runs."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "schedule",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cron", sa.Text()),
        sa.Column("timezone", sa.Text(), nullable=False),
        sa.Column("every_s", sa.Integer()),
        sa.Column("when_new_rows", sa.Integer()),
        sa.Column("when_data_changed", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("missed", sa.String(16), nullable=False),
        sa.Column("overlap", sa.String(16), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("last_slot", TIME, nullable=False),
        sa.Column("next_slot", TIME),
        sa.Column("seen", sa.JSON()),
        sa.Column("looked", sa.JSON()),
        sa.Column("last_error", sa.Text()),
        sa.Column("last_error_at", TIME),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.name"], name="fk_schedule_tenant_tenant"),
        sa.PrimaryKeyConstraint("id", name="pk_schedule"),
        sa.UniqueConstraint("tenant", "name", name="uq_schedule_tenant_name"),
    )
    op.create_index("ix_schedule_next_slot", "schedule", ["next_slot"])
    op.create_table(
        "slot",
        sa.Column("schedule_id", sa.String(64), nullable=False),
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("job_id", sa.String(64)),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("spec", sa.JSON()),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["schedule.id"], name="fk_slot_schedule_id_schedule", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_slot_job_id_job", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("schedule_id", "key", name="pk_slot"),
    )
    op.create_index("ix_slot_schedule_id_outcome", "slot", ["schedule_id", "outcome"])
    op.create_index("ix_slot_job_id", "slot", ["job_id"])


def downgrade() -> None:
    """Remove the tables."""
    op.drop_table("slot")
    op.drop_table("schedule")
