"""Counts and deletes the rows of a tenant, in every table that a scope limits.

The tables come from the lists of ``scope``, so a new table needs no entry here. The audit stays: its rows outlive their
tenant, and the database refuses to delete them.
"""

from typing import Any, cast

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from ..scope.scope import CHILDREN, OWNED, parent_key
from ..states import LIVE
from ..tables import AuditEntry, Dataset, File, Job, Table, Tenant

KEPT: frozenset[type[Table]] = frozenset({AuditEntry})
"""Tables of tenants whose rows stay."""


def lock_tenant(session: Session, name: str) -> Tenant | None:
    """Lock a tenant's row until the commit, so that no row of the tenant is added meanwhile; None if there is none."""
    return session.scalars(select(Tenant).where(Tenant.name == name).with_for_update()).one_or_none()


def count_rows(session: Session, tenant: str) -> dict[str, int]:
    """Count the tenant's rows that a deletion deletes, by table; tables without any are left out."""
    counts = {
        table.__tablename__: session.scalar(select(func.count()).select_from(table).where(_of(table, tenant))) or 0
        for table in _tables()
    }
    return {name: count for name, count in counts.items() if count}


def delete_rows(session: Session, tenant: str) -> None:
    """Delete the tenant's rows, those that refer to others first, and its own row last."""
    for table in reversed(_tables()):
        session.execute(delete(table).where(_of(table, tenant)).execution_options(synchronize_session=False))


def unfinished_jobs(session: Session, tenant: str) -> list[str]:
    """List the tenant's jobs that have not ended, the oldest first."""
    mine = select(Job.id).where(Job.tenant == tenant, Job.status.in_(LIVE))
    return list(session.scalars(mine.order_by(Job.created_at, Job.id)))


def job_ids(session: Session, tenant: str) -> list[str]:
    """List the tenant's jobs, the oldest first."""
    return list(session.scalars(select(Job.id).where(Job.tenant == tenant).order_by(Job.created_at, Job.id)))


def contents(session: Session, tenant: str) -> list[str]:
    """List the contents of the tenant's files and datasets, by URI; other tenants may have the same contents."""
    found = {
        uri
        for table in (File, Dataset)
        for uri in session.scalars(select(table.uri).where(table.tenant == tenant).distinct())
    }
    return sorted(found)


def is_needed_by_others(session: Session, tenant: str, uri: str) -> bool:
    """Return whether a file or a dataset of another tenant has the content."""
    return any(
        session.scalar(select(table.id).where(table.uri == uri, table.tenant != tenant).limit(1)) is not None
        for table in (File, Dataset)
    )


def _tables() -> list[type[Table]]:
    """List the tables whose rows go, a table before those that refer to it."""
    mapped = {cast("Any", table).__table__: table for table in (*OWNED, *CHILDREN) if table not in KEPT}
    return [mapped[one] for one in Table.metadata.sorted_tables if one in mapped]


def _of(table: type[Table], tenant: str) -> ColumnElement[bool]:
    if table in OWNED:
        return getattr(table, OWNED[table]) == tenant
    name, parent = CHILDREN[table]
    parents = select(parent_key(parent)).where(getattr(parent, OWNED[parent]) == tenant)
    return getattr(table, name).in_(parents)
