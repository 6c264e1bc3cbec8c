"""Adds the limits and keys of tenants, the ledger of their use, and the audit, whose rows nothing changes or deletes.

The migration only expands. The ledger begins with the ended jobs' use by the month of their end; the use of a job that
has not ended is charged at its next charge, and its hold is taken by the first scheduling round.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
ZERO = sa.text("0")

FUNCTION = """
CREATE FUNCTION celora_audit_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'the audit only grows: its rows are not changed and not deleted'; END $$
"""
POSTGRES_TRIGGER = (
    "CREATE TRIGGER audit_is_kept BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION celora_audit_is_kept()"
)
SQLITE_TRIGGER = (
    "CREATE TRIGGER audit_is_kept_{change} BEFORE {change} ON audit "
    "BEGIN SELECT RAISE(ABORT, 'the audit only grows: its rows are not changed and not deleted'); END"
)


def _tenant() -> list[sa.Column[Any]]:
    return [
        sa.Column("max_jobs", sa.Integer()),
        sa.Column("gpu_minutes", sa.Float(53)),
        sa.Column("budget", sa.Float(53)),
        sa.Column("storage_bytes", sa.BigInteger()),
        sa.Column("max_priority", sa.Integer(), nullable=False, server_default=sa.text("100")),
        sa.Column("weight", sa.Float(53), nullable=False, server_default=sa.text("1")),
        sa.Column("over", sa.String(8), nullable=False, server_default="wait"),
    ]


def _counts(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger(), nullable=False, server_default=ZERO) for name in names]


def upgrade() -> None:
    """Add the columns, the tables and the triggers, and begin the ledger."""
    for column in _tenant():
        op.add_column("tenant", column)
    op.add_column("job", sa.Column("pause_cause", sa.String(16)))
    op.add_column("job", sa.Column("limited", sa.JSON()))
    _make_keys_and_audit()
    _make_ledger()
    _begin_ledger()
    _let_unfinished_wait()
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(SQLITE_TRIGGER.format(change=change))
    else:
        op.execute(FUNCTION)
        op.execute(POSTGRES_TRIGGER)


def _make_keys_and_audit() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("shown", sa.String(16), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.Column("last_used_at", TIME),
        sa.Column("rotated_from", sa.String(64)),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.name"], name="fk_api_key_tenant_tenant"),
        sa.PrimaryKeyConstraint("id", name="pk_api_key"),
        sa.UniqueConstraint("sha256", name="uq_api_key_sha256"),
    )
    op.create_index("ix_api_key_tenant_created_at", "api_key", ["tenant", "created_at"])
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("tenant", sa.String(64)),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("key_id", sa.String(64)),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("object", sa.String(255), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("before", sa.JSON()),
        sa.Column("after", sa.JSON()),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_tenant_id", "audit", ["tenant", "id"])
    op.create_index("ix_audit_object", "audit", ["object"])


def _make_ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        *_counts("spent_ms", "spent_micros", "held_ms", "held_micros"),
        sa.Column("updated_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.name"], name="fk_ledger_tenant_tenant"),
        sa.PrimaryKeyConstraint("tenant", "month", name="pk_ledger"),
    )
    op.create_table(
        "hold",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("basis", sa.String(8), nullable=False),
        sa.Column("wanted_ms", sa.BigInteger(), nullable=False),
        sa.Column("wanted_micros", sa.BigInteger(), nullable=False),
        *_counts("held_ms", "held_micros", "settled_ms", "settled_micros"),
        sa.Column("updated_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_hold_job_id_job", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name="pk_hold"),
    )
    op.create_index("ix_hold_held_ms", "hold", ["held_ms"])
    op.create_table(
        "charge",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        *_counts("device_ms", "cost_micros"),
        sa.Column("at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_charge_job_id_job", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "attempt", "month", name="pk_charge"),
    )
    op.create_index("ix_charge_month", "charge", ["month"])


def _begin_ledger() -> None:
    """Charge each ended job's use to its last attempt, in the month of its end, and add the charges up."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    month = "strftime('%Y-%m', finished_at)" if sqlite else "to_char(finished_at AT TIME ZONE 'UTC', 'YYYY-MM')"
    op.execute(
        "INSERT INTO charge (job_id, attempt, month, device_ms, cost_micros, at) "  # noqa: S608  (constants)
        f"SELECT id, attempt, {month}, CAST(round(gpu_seconds * 1000) AS BIGINT), "
        "CAST(round(cost * 1000000) AS BIGINT), finished_at "
        "FROM job WHERE finished_at IS NOT NULL AND gpu_seconds > 0"
    )
    op.execute(
        "INSERT INTO ledger (tenant, month, spent_ms, spent_micros, held_ms, held_micros, updated_at) "
        "SELECT job.tenant, charge.month, sum(charge.device_ms), sum(charge.cost_micros), 0, 0, max(charge.at) "
        "FROM charge JOIN job ON job.id = charge.job_id GROUP BY job.tenant, charge.month"
    )


def _let_unfinished_wait() -> None:
    """Give each unfinished job the row of a hold, so that the first scheduling round takes the hold."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    month = "strftime('%Y-%m', 'now')" if sqlite else "to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM')"
    op.execute(
        "INSERT INTO hold (job_id, month, basis, wanted_ms, wanted_micros, held_ms, held_micros, settled_ms, "  # noqa: S608  (constants)
        f"settled_micros, updated_at) SELECT id, {month}, 'bytes', 60000, 0, 0, 0, 0, 0, updated_at "
        "FROM job WHERE finished_at IS NULL"
    )


def downgrade() -> None:
    """Remove the columns, the tables and the triggers."""
    for table in ("charge", "hold", "ledger", "audit", "api_key"):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION celora_audit_is_kept()")
    op.drop_column("job", "limited")
    op.drop_column("job", "pause_cause")
    for column in reversed(_tenant()):
        op.drop_column("tenant", column.name)
