"""Adds the tables of jobs that came over HTTP, and ids of trained models that are unique within a tenant.

The labels of jobs that are in the record, and the ids of their adapters, are filled in.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any, cast

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
PAGE = 1000


def _texts(*names: str) -> list[sa.ColumnClause[str]]:
    return [sa.column(name, sa.String()) for name in names]


job = sa.table("job", *_texts("id", "tenant"), sa.column("created_at", TIME), sa.column("spec", sa.JSON()))
label = sa.table("job_label", *_texts("job_id", "key", "value", "tenant"), sa.column("created_at", TIME))
adapter = sa.table("adapter", *_texts("id", "tenant", "model_id", "base_name"))


def upgrade() -> None:
    """Make the tables, and fill in labels and ids."""
    op.create_table(
        "job_request",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("named", sa.Text(), nullable=False),
        sa.Column("training_file", sa.String(64), nullable=False),
        sa.Column("validation_file", sa.String(64)),
        sa.Column("method", sa.String(16), nullable=False),
        sa.Column("hyperparameters", sa.JSON(), nullable=False),
        sa.Column("body_sha256", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_job_request_job_id_job", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.name"], name="fk_job_request_tenant_tenant"),
        sa.PrimaryKeyConstraint("job_id", name="pk_job_request"),
    )
    op.create_index(
        "ix_job_request_tenant_body_sha256_created_at", "job_request", ["tenant", "body_sha256", "created_at"]
    )
    op.create_table(
        "job_label",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.String(512), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_job_label_job_id_job", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.name"], name="fk_job_label_tenant_tenant"),
        sa.PrimaryKeyConstraint("job_id", "key", name="pk_job_label"),
    )
    op.create_index(
        "ix_job_label_tenant_key_value_created_at_job_id",
        "job_label",
        ["tenant", "key", "value", "created_at", "job_id"],
    )
    op.create_table(
        "idempotency_key",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("body_sha256", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_idempotency_key_job_id_job", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.name"], name="fk_idempotency_key_tenant_tenant"),
        sa.PrimaryKeyConstraint("tenant", "key", name="pk_idempotency_key"),
    )
    op.create_index("ix_idempotency_key_created_at", "idempotency_key", ["created_at"])
    op.create_index("ix_job_tenant_status_created_at_id", "job", ["tenant", "status", "created_at", "id"])
    op.add_column("adapter", sa.Column("model_id", sa.String(255)))
    op.add_column("adapter", sa.Column("deleted_at", TIME))
    _fill()
    op.create_index("ix_adapter_tenant_model_id", "adapter", ["tenant", "model_id"], unique=True)


def downgrade() -> None:
    """Remove the tables and columns."""
    op.drop_index("ix_adapter_tenant_model_id", "adapter")
    op.drop_column("adapter", "deleted_at")
    op.drop_column("adapter", "model_id")
    op.drop_index("ix_job_tenant_status_created_at_id", "job")
    op.drop_table("idempotency_key")
    op.drop_table("job_label")
    op.drop_table("job_request")


def _fill() -> None:
    connection = op.get_bind()
    for page in _pages(connection):
        rows = [
            {"job_id": row.id, "tenant": row.tenant, "created_at": row.created_at, "key": key[:64], "value": text[:512]}
            for row in page
            for key, text in _labels(row.spec)
        ]
        if rows:
            connection.execute(sa.insert(label), rows)
    wanted = sa.select(adapter.c.id, adapter.c.tenant, adapter.c.base_name, job.c.spec)
    for row in connection.execute(wanted.join(job, job.c.id == adapter.c.id)).all():
        spec: Any = json.loads(row.spec or "{}") if isinstance(row.spec, str | None) else row.spec
        name = str(row.base_name).rstrip("/").rsplit("/", 1)[-1].replace(":", "-")[:100]
        digest = hashlib.sha256(str(row.id).encode()).digest()[:10]
        tail = base64.b32encode(digest).decode().lower()
        model_id = f"ft:{name}:{row.tenant}:{spec.get('suffix') or ''}:{tail}"
        connection.execute(sa.update(adapter).where(adapter.c.id == row.id).values(model_id=model_id))


def _pages(connection: sa.Connection) -> Iterator[list[Any]]:
    after = ""
    while True:
        page = sa.select(job.c.id, job.c.tenant, job.c.created_at, job.c.spec).where(job.c.id > after)
        rows = list(connection.execute(page.order_by(job.c.id).limit(PAGE)).all())
        if not rows:
            return
        yield rows
        after = str(rows[-1].id)


def _labels(spec: Any) -> list[tuple[str, str]]:
    fields: Any = cast("Any", spec) if isinstance(spec, dict) else {}
    labels: Any = fields.get("metadata")
    if not isinstance(labels, dict):
        return []
    return [(str(key), str(value)) for key, value in cast("dict[Any, Any]", labels).items()]
