"""Adds the tables of champions, of their changes, and of people's preferences."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "champion",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.name"], name="fk_champion_tenant_tenant"),
        sa.ForeignKeyConstraint(["job_id"], ["adapter.id"], name="fk_champion_job_id_adapter"),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_champion"),
    )
    op.create_table(
        "champion_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("before", sa.String(64)),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("figures", sa.JSON()),
        sa.Column("by_whom", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("claimed_until", TIME),
        sa.Column("told_at", TIME),
        sa.Column("fault", sa.Text()),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.name"], name="fk_champion_event_tenant_tenant"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_champion_event_job_id_job", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_champion_event"),
    )
    op.create_index("ix_champion_event_tenant_name_id", "champion_event", ["tenant", "name", "id"])
    op.create_index("ix_champion_event_told_at", "champion_event", ["told_at"])
    op.create_table(
        "rating",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("one", sa.String(64), nullable=False),
        sa.Column("other", sa.String(64), nullable=False),
        sa.Column("held_out", sa.Text(), nullable=False),
        sa.Column("prompt_sha256", sa.String(64), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("answer_one", sa.Text(), nullable=False),
        sa.Column("answer_other", sa.Text(), nullable=False),
        sa.Column("choice", sa.String(16), nullable=False),
        sa.Column("by_whom", sa.String(200), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.name"], name="fk_rating_tenant_tenant"),
        sa.PrimaryKeyConstraint("id", name="pk_rating"),
        sa.UniqueConstraint(
            *("tenant", "one", "other", "prompt_sha256", "by_whom"),
            name="uq_rating_tenant_one_other_prompt_sha256_by_whom",
        ),
    )


def downgrade() -> None:
    """Remove the tables."""
    op.drop_table("rating")
    op.drop_table("champion_event")
    op.drop_table("champion")
