"""Adds the epoch of a checkpoint, and the token accuracy of a measurement."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("checkpoint", sa.Column("epoch", sa.Integer()))
    op.add_column("metric_point", sa.Column("train_accuracy", sa.Float(53)))
    op.add_column("metric_point", sa.Column("eval_accuracy", sa.Float(53)))


def downgrade() -> None:
    """Remove the columns."""
    op.drop_column("metric_point", "eval_accuracy")
    op.drop_column("metric_point", "train_accuracy")
    op.drop_column("checkpoint", "epoch")
