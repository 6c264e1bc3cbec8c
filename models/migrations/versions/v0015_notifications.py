"""Adds the tables of notifications: receivers, and the deliveries to them."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
OPEN = sa.text("next_at IS NOT NULL")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "receiver",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("notices", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.String(64)),
        sa.Column("waiting_s", sa.Integer()),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("old_sealed", sa.Text()),
        sa.Column("old_until", TIME),
        sa.Column("hint", sa.String(16), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("failing_since", TIME),
        sa.Column("off_at", TIME),
        sa.Column("off_reason", sa.Text()),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.name"], name="fk_receiver_tenant_tenant"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_receiver_job_id_job", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_receiver"),
    )
    op.create_index("ix_receiver_tenant_created_at", "receiver", ["tenant", "created_at"])
    op.create_index("ix_receiver_job_id", "receiver", ["job_id"])
    op.create_table(
        "delivery",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("receiver_id", sa.String(64), nullable=False),
        sa.Column("event_id", sa.String(64), nullable=False),
        sa.Column("notice", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64)),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("next_at", TIME),
        sa.Column("claimed_until", TIME),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(16)),
        sa.Column("ended_at", TIME),
        sa.Column("tries", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["receiver_id"], ["receiver.id"], name="fk_delivery_receiver_id_receiver", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_delivery_job_id_job", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_delivery"),
    )
    op.create_index("ix_delivery_next_at", "delivery", ["next_at"], sqlite_where=OPEN, postgresql_where=OPEN)
    op.create_index("ix_delivery_receiver_id_subject", "delivery", ["receiver_id", "subject"])
    op.create_index("ix_delivery_job_id", "delivery", ["job_id"])


def downgrade() -> None:
    """Remove the tables."""
    op.drop_table("delivery")
    op.drop_table("receiver")
