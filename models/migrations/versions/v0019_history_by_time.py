"""Adds the indexes by which a page of a long job's history is read: events and measurements by time, evaluations alone.

The migration only expands. PostgreSQL reads a table once for each index, and writers wait meanwhile.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

EVALUATED = sa.text("eval_loss IS NOT NULL")


def upgrade() -> None:
    """Add the indexes."""
    op.create_index("ix_event_job_id_at_id", "event", ["job_id", "at", "id"])
    op.create_index("ix_metric_point_job_id_at_attempt_step", "metric_point", ["job_id", "at", "attempt", "step"])
    op.create_index(
        "ix_metric_point_evaluated",
        "metric_point",
        ["job_id", "attempt", "step"],
        sqlite_where=EVALUATED,
        postgresql_where=EVALUATED,
    )


def downgrade() -> None:
    """Remove the indexes."""
    op.drop_index("ix_metric_point_evaluated", "metric_point")
    op.drop_index("ix_metric_point_job_id_at_attempt_step", "metric_point")
    op.drop_index("ix_event_job_id_at_id", "event")
