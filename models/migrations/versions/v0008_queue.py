"""Adds the columns by which jobs are ordered, two indexes of the waiting ones, and the tables of the queue.

The migration only expands. ``expires_at`` has the epoch as its server default: a row of an earlier program keeps it,
and the next scheduling round reads the caller's time from the row's request.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
WAITS = sa.text("status = 'pending'")
EXPIRES = sa.text("expires_at IS NOT NULL")
LANE = ("paused", "stage", "job_class", "gpu", "labels", "tenant")
UNREAD = "1970-01-01 00:00:00"


def _of_job() -> list[sa.Column[Any]]:
    return [
        sa.Column("job_class", sa.String(16), nullable=False, server_default="normal"),
        sa.Column("labels", sa.String(255), nullable=False, server_default=sa.text("''")),
        sa.Column("expires_at", TIME, server_default=sa.text(f"'{UNREAD}'")),
        sa.Column("preempt_requested", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("preempted_at", TIME),
        sa.Column("expected_s", sa.JSON()),
        sa.Column("chosen", sa.JSON()),
    ]


def _of_worker() -> list[sa.Column[Any]]:
    return [
        sa.Column("reserved_for", sa.String(64)),
        sa.Column("labels", sa.String(255), nullable=False, server_default=sa.text("''")),
        sa.Column("bases", sa.JSON()),
    ]


def upgrade() -> None:
    """Add the columns, the indexes and the tables."""
    for column in _of_job():
        op.add_column("job", column)
    op.execute("UPDATE job SET expires_at = NULL WHERE status IN ('completed', 'failed', 'cancelled')")
    for column in _of_worker():
        op.add_column("worker", column)
    op.add_column("tenant", sa.Column("classes", sa.String(64), nullable=False, server_default="normal,background"))
    order = [*LANE, sa.text("recovered DESC"), sa.text("priority DESC"), "created_at", "id"]
    op.create_index("ix_job_turn", "job", order, sqlite_where=WAITS, postgresql_where=WAITS)
    op.create_index("ix_job_age", "job", [*LANE, "created_at"], sqlite_where=WAITS, postgresql_where=WAITS)
    op.create_index("ix_job_expires_at", "job", ["expires_at"], sqlite_where=EXPIRES, postgresql_where=EXPIRES)
    op.create_table(
        "lane_reason",
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("job_class", sa.String(16), nullable=False),
        sa.Column("gpu", sa.String(32), nullable=False),
        sa.Column("labels", sa.String(255), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("above_bytes", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("code", sa.String(32), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.name"], name="fk_lane_reason_tenant_tenant"),
        sa.PrimaryKeyConstraint(
            *("stage", "job_class", "gpu", "labels", "tenant", "above_bytes"), name="pk_lane_reason"
        ),
    )
    op.create_table(
        "tenant_use",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("gpu_seconds", sa.Float(53), nullable=False, server_default=sa.text("0")),
        sa.Column("at", TIME, nullable=False),
        sa.Column("competes", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.name"], name="fk_tenant_use_tenant_tenant"),
        sa.PrimaryKeyConstraint("tenant", name="pk_tenant_use"),
    )


def downgrade() -> None:
    """Remove the columns, the indexes and the tables."""
    op.drop_table("tenant_use")
    op.drop_table("lane_reason")
    for index in ("ix_job_expires_at", "ix_job_age", "ix_job_turn"):
        op.drop_index(index, "job")
    op.drop_column("tenant", "classes")
    for table, columns in (("worker", _of_worker()), ("job", _of_job())):
        for column in reversed(columns):
            op.drop_column(table, column.name)
