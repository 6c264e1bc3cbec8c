"""Adds the indexes by which a page of a long job's history is read: events and measurements by time, evaluations alone.

The migration only expands. PostgreSQL reads a table once for each index, and writers wait meanwhile: migrations are one
transaction, in which an index cannot be made concurrently. An operator may have made the indexes so beforehand; the
migration then leaves them, and makes those anew whose making broke off.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

EVALUATED = sa.text("eval_loss IS NOT NULL")


NAMES = ("ix_event_job_id_at_id", "ix_metric_point_job_id_at_attempt_step", "ix_metric_point_evaluated")


def upgrade() -> None:
    """Add the indexes that are not there."""
    _drop_invalid()
    op.create_index(NAMES[0], "event", ["job_id", "at", "id"], if_not_exists=True)
    op.create_index(NAMES[1], "metric_point", ["job_id", "at", "attempt", "step"], if_not_exists=True)
    op.create_index(
        NAMES[2],
        "metric_point",
        ["job_id", "attempt", "step"],
        if_not_exists=True,
        sqlite_where=EVALUATED,
        postgresql_where=EVALUATED,
    )


def _drop_invalid() -> None:
    """Drop the indexes of a ``CREATE INDEX CONCURRENTLY`` that broke off: PostgreSQL keeps them, and reads none."""
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    known = sa.text("SELECT relname FROM pg_class JOIN pg_index ON indexrelid = oid WHERE NOT indisvalid")
    for name in set(connection.scalars(known)).intersection(NAMES):
        op.drop_index(name)


def downgrade() -> None:
    """Remove the indexes."""
    op.drop_index("ix_metric_point_evaluated", "metric_point")
    op.drop_index("ix_metric_point_job_id_at_attempt_step", "metric_point")
    op.drop_index("ix_event_job_id_at_id", "event")
