"""Changes workers from outside: drain, cordon, uncordon, and the restart of a trainer host.

The record is changed first, and is the truth; the message after the commit only saves the wait for a heartbeat or a
tick. So each function works without a broker, and while the worker does not run.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..errors import NotFoundError, SettingsError, did_you_mean
from ..models import workers as records
from ..models.database import get_database
from ..models.scope.scope import Scope
from ..models.tables import Worker
from ..models.tables.types import JsonObject
from ..models.tenants.audit import current_actor, record_audit
from ..settings.settings import get_settings
from ..workers import messages
from ..workers.celery import app
from ..workers.messages import request_tick

__all__ = ["cordon", "drain", "restart_host", "uncordon"]

CONTROL = "control"


def drain(worker: str) -> str:
    """Asks a worker to return its job, after a checkpoint, and to exit with code 0.

    Args:
        worker: The worker's name, or the beginning of it.

    Returns:
        ``draining``, or ``offline`` where the worker does not run.

    Raises:
        NotFoundError: There is no such worker.
    """
    with get_database().transaction(Scope.everything) as session:
        row = find_worker(session, worker)
        if row.status == "offline":
            return "offline"
        records.request_drain(session, row.id)
        _audit(session, "worker.drain", row.id, {"status": row.status}, {"draining": True})
    _request_look(row.id)
    return "draining"


def cordon(worker: str, note: str = "") -> str:
    """Excludes a worker from new jobs until ``uncordon``, also after its restart; the worker finishes its running job.

    Returns:
        The worker's whole name.

    Raises:
        NotFoundError: There is no such worker.
        SettingsError: The worker is a control worker, whose bookkeeping every job waits for.
    """
    with get_database().transaction(Scope.everything) as session:
        row = find_worker(session, worker)
        if row.kind == CONTROL:
            raise SettingsError(
                f"{row.id} runs no jobs; it does the bookkeeping that every job waits for.",
                hint=f"To stop it for good: celora drain {row.id}",
            )
        before = {"cordoned": row.cordoned, "note": row.note}
        records.cordon(session, row.id, note)
        _audit(session, "worker.cordon", row.id, before, {"cordoned": True, "note": note})
    _request_look(row.id)
    return row.id


def uncordon(worker: str) -> str:
    """Admits a worker to new jobs again; an unhealthy worker counts as healthy again.

    Returns:
        The obstacle that still keeps the worker from work, in words; empty if there is none.

    Raises:
        NotFoundError: There is no such worker.
    """
    with get_database().transaction(Scope.everything) as session:
        row = find_worker(session, worker)
        before = {"cordoned": row.cordoned, "note": row.note, "health": row.health}
        records.uncordon(session, row.id)
        _audit(session, "worker.uncordon", row.id, before, {"cordoned": False})
        session.refresh(row)
        left = records.obstacle(row, get_settings().foreign_memory_bytes)
    _request_look(row.id)
    request_tick()
    return left


def restart_host(worker: str) -> str:
    """Asks a worker to end its trainer host; its runs return their jobs after a checkpoint, and pay no attempt.

    The next run starts another host. A worker without a host has nothing to end.

    Returns:
        ``restarting``, or ``offline`` where the worker does not run.

    Raises:
        NotFoundError: There is no such worker.
    """
    with get_database().transaction(Scope.everything) as session:
        row = find_worker(session, worker)
        if row.status == "offline":
            return "offline"
        records.request_host_restart(session, row.id)
        before: JsonObject = {"host": (row.resident or {}).get("generation")}
        _audit(session, "worker.host_restart", row.id, before, {"restarting": True})
    _request_look(row.id)
    return "restarting"


def find_worker(session: Session, name: str) -> Worker:
    """Finds the worker of a name, or the only one whose name begins so.

    Raises:
        NotFoundError: There is none, or more than one; the message names those that exist.
    """
    names = sorted(session.scalars(select(Worker.id)))
    alike = [name] if name in names else [known for known in names if name and known.startswith(name)]
    if len(alike) == 1:
        return session.get_one(Worker, alike[0])
    if alike:
        told = f"{name} is the beginning of more than one worker: {', '.join(alike)}."
        raise NotFoundError(told, hint="Give more of the name.")
    some = f"; did you mean {' or '.join(names[:3])}?" if names else "; none has registered."
    told = did_you_mean(name, names, most=3, cutoff=0.5, otherwise=some)
    raise NotFoundError(f"there is no worker {name}{told}", hint="See `celora workers`.")


def _audit(session: Session, action: str, worker: str, before: JsonObject, after: JsonObject) -> None:
    """Record a change of a worker, which no tenant owns."""
    record_audit(session, current_actor(), action, worker, before, after, tenant=None)


def _request_look(worker_id: str) -> None:
    """Asks a worker to read its row now; if the message is lost, the worker reads it at its next heartbeat."""
    messages.attempt(lambda: app.control.broadcast("look", destination=[worker_id]), f"a look of {worker_id}")
