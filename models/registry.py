"""Who and what registered with the installation: workers and datasets."""

from datetime import timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from .database import now
from .journal import inserter
from .tables import Dataset, Tenant, Worker


def register(session: Session, worker_id: str, **fields: Any) -> Worker:
    """Write a worker down as online, or anew if its name is known.

    Args:
        session: An open session.
        worker_id: Its Celery node name.
        fields: Columns of ``tables.Worker``: host, kind, gpu_type, device_index, device_uuid, memory_bytes, slots,
            pid, versions, queues.
    """
    at = now(session)
    worker = session.merge(Worker(id=worker_id, status="online", registered_at=at, last_seen_at=at, **fields))
    session.flush()
    return worker


def seen(session: Session, worker_id: str) -> bool:
    """A worker's sign of life; False if it never registered. An offline one is online again, a draining one drains."""
    found = session.get(Worker, worker_id, populate_existing=True)
    if found is None:
        return False
    found.last_seen_at = now(session)
    found.status = "draining" if found.status == "draining" else "online"
    session.flush()
    return True


def drain(session: Session, worker_id: str) -> bool:
    """Give a worker no more work; False if there is none of that name."""
    return _set_status(session, worker_id, "draining")


def gone(session: Session, worker_id: str) -> bool:
    """A worker says goodbye."""
    return _set_status(session, worker_id, "offline")


def silence(session: Session, silent_s: float) -> list[str]:
    """Mark workers offline that gave no sign of life for that long; returns their names."""
    late = (Worker.status != "offline", Worker.last_seen_at < now(session) - timedelta(seconds=silent_s))
    marked = update(Worker).where(*late).values(status="offline").returning(Worker.id)
    return sorted(session.scalars(marked.execution_options(synchronize_session=False)))


def register_dataset(
    session: Session, *, tenant: str, name: str, sha256: str, uri: str, size_bytes: int, rows: int | None = None
) -> Dataset:
    """A dataset's version under its name: the same content is the version it was, other content the next one."""
    at = now(session)
    insert = inserter(session)
    session.execute(insert(Tenant).values(name=tenant, created_at=at).on_conflict_do_nothing(index_elements=["name"]))
    mine = (Dataset.tenant == tenant, Dataset.name == name)
    last = session.scalar(select(func.max(Dataset.version)).where(*mine)) or 0
    values = {"tenant": tenant, "name": name, "version": last + 1, "sha256": sha256, "uri": uri}
    values |= {"size_bytes": size_bytes, "rows": rows, "created_at": at}
    session.execute(
        insert(Dataset).values(**values).on_conflict_do_nothing(index_elements=["tenant", "name", "sha256"])
    )
    return session.scalars(select(Dataset).where(*mine, Dataset.sha256 == sha256)).one()


def _set_status(session: Session, worker_id: str, status: str) -> bool:
    changed = update(Worker).where(Worker.id == worker_id).values(status=status).returning(Worker.id)
    return session.scalar(changed.execution_options(synchronize_session=False)) is not None
