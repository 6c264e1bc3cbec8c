"""Who and what registered with the installation: workers and datasets."""

from datetime import timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from .database import now
from .journal import inserter
from .tables import Dataset, Tenant, Worker

FAULTS_IN_A_ROW = 2
"""Device errors without a good stage between them that make a worker unhealthy."""


def register(session: Session, worker_id: str, **fields: Any) -> Worker:
    """Write a worker down as online, or anew if its name is known: of good health, and still cordoned if it was.

    Args:
        session: An open session.
        worker_id: Its Celery node name.
        fields: Columns of ``tables.Worker``: host, kind, gpu_type, device_index, device_uuid, memory_bytes, slots,
            pid, versions, queues.
    """
    at = now(session)
    fresh = {"status": "online", "health": "ok", "device_faults": 0, "drain_asked": False, "foreign_bytes": None}
    worker = session.merge(Worker(id=worker_id, registered_at=at, last_seen_at=at, **{**fresh, **fields}))
    if not worker.cordoned:
        worker.note = None
    session.flush()
    return worker


def seen(session: Session, worker_id: str, *, foreign_bytes: int | None = None) -> Worker | None:
    """A worker's sign of life; None if it never registered. An offline one is online again, a draining one drains.

    Args:
        session: An open session.
        worker_id: The worker.
        foreign_bytes: Memory that processes of others hold on its device now; None where it is unknown.

    Returns:
        The row, by which the worker learns what is wanted of it.
    """
    found = session.get(Worker, worker_id, populate_existing=True)
    if found is None:
        return None
    found.last_seen_at = now(session)
    found.status = "draining" if found.status == "draining" else "online"
    found.foreign_bytes = foreign_bytes
    session.flush()
    return found


def cordon(session: Session, worker_id: str, note: str = "") -> bool:
    """Give a worker no more work until ``uncordon``, also after its restart; what it runs it ends. False: unknown."""
    return _set(session, worker_id, cordoned=True, note=note or "cordoned")


def uncordon(session: Session, worker_id: str) -> bool:
    """Give a worker work again; an unhealthy one is trusted once more. False if there is none of that name."""
    return _set(session, worker_id, cordoned=False, health="ok", device_faults=0, note=None)


def ask_drain(session: Session, worker_id: str) -> bool:
    """Ask a worker to hand its job back and leave; it reads this at its next sign of life. False: unknown."""
    return _set(session, worker_id, drain_asked=True)


def device_fault(session: Session, worker_id: str, message: str) -> int:
    """Count a device error of a worker; with the second in a row it is unhealthy. Returns how many there were."""
    worker = session.get(Worker, worker_id, populate_existing=True, with_for_update=True)
    if worker is None:
        return 0
    worker.device_faults += 1
    if worker.device_faults >= FAULTS_IN_A_ROW:
        worker.health, worker.note = "unhealthy", f"{worker.device_faults} device errors in a row; last: {message}"
    session.flush()
    return worker.device_faults


def fine(session: Session, worker_id: str) -> None:
    """A stage went well on this worker's device: earlier errors no longer count."""
    clean = update(Worker).where(Worker.id == worker_id, Worker.device_faults > 0).values(device_faults=0)
    session.execute(clean.execution_options(synchronize_session=False))


def obstacle(worker: Worker, foreign_limit_bytes: int) -> str:
    """Why a worker takes no work now, in words; empty if it does."""
    if worker.status != "online":
        return worker.status
    if worker.cordoned:
        return "cordoned" if worker.note in (None, "", "cordoned") else f"cordoned: {worker.note}"
    if worker.health != "ok":
        return f"{worker.health}: {worker.note or ''}".rstrip(": ")
    if (worker.foreign_bytes or 0) > foreign_limit_bytes:
        return f"somebody else holds {(worker.foreign_bytes or 0) / 2**30:.1f} GiB of its device's memory"
    return ""


def drain(session: Session, worker_id: str) -> bool:
    """Give a worker no more work; False if there is none of that name."""
    return _set(session, worker_id, status="draining")


def gone(session: Session, worker_id: str) -> bool:
    """A worker says goodbye."""
    return _set(session, worker_id, status="offline")


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


def _set(session: Session, worker_id: str, **values: Any) -> bool:
    changed = update(Worker).where(Worker.id == worker_id).values(**values).returning(Worker.id)
    return session.scalar(changed.execution_options(synchronize_session=False)) is not None
