"""Records workers: their registration, heartbeat, cordon, drain and health."""

from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple, TypedDict, Unpack

from pydantic import Field
from sqlalchemy import ColumnElement, Select, and_, bindparam, func, select, update
from sqlalchemy.orm import Session

from .columns import StoredModel
from .database import now
from .states import DIRECT
from .tables import Worker
from .tables.types import JsonObject

FAULTS_IN_A_ROW = 2
"""Device errors without a good stage between them that make a worker unhealthy."""


class Registration(TypedDict, total=False):
    """The columns of the table of workers that a worker reports about itself."""

    host: str
    kind: str
    gpu_type: str | None
    device_index: int | None
    device_uuid: str | None
    memory_bytes: int | None
    slots: int
    pid: int
    versions: JsonObject
    queues: list[str]
    labels: str
    reserved_for: str | None


class Resident(StoredModel):
    """The column ``resident``: the trainer host of a worker, and the base that it holds."""

    generation: str = Field(description="names the host among all hosts of the worker")
    started_at: float = Field(description="seconds of the epoch")
    memory_bytes: int = Field(description="memory that the host holds on its device")
    runs: int = Field(0, description="runs that are inside")
    base: str = Field("", description="name of the base; empty where none is loaded")
    revision: str = ""
    quantization: str = ""
    compute_dtype: str = ""
    base_bytes: int = Field(0, description="memory of the base's tensors")
    base_runs: int = Field(0, description="runs that used the base since it was loaded")
    loaded_at: float | None = Field(None, description="time at which the base was loaded, seconds of the epoch")

    @property
    def key(self) -> str:
        """The base and its revision, as ``warm_key`` writes them; empty without a base."""
        return warm_key(self.base, self.revision) if self.base else ""


class WarmWorker(NamedTuple):
    """A worker that is open to every job, reads a queue of its own as well, and holds bases in memory."""

    id: str
    gpu_type: str | None
    bases: list[str]


class WorkerGroup(NamedTuple):
    """Workers that are equal to a job: they take work, read the common queue of their type and carry no labels."""

    kind: str
    gpu_type: str | None
    memory_bytes: int
    slots: int


class WorkerState(NamedTuple):
    """The columns of a worker that a scheduling round reads."""

    id: str
    kind: str
    gpu_type: str | None
    memory_bytes: int | None
    slots: int
    status: str
    cordoned: bool
    health: str
    foreign_bytes: int | None
    note: str | None
    reserved_for: str | None
    labels: str
    bases: list[str] | None


class _Change(TypedDict, total=False):
    status: str
    cordoned: bool
    drain_asked: bool
    host_restart_asked: bool
    health: str
    device_faults: int
    note: str | None


def warm_key(name: str, revision: str) -> str:
    """Join a base and its revision into one text of at most 255 characters: equal texts are equal weights."""
    return f"{name}@{revision}"[-255:]


def register(session: Session, worker_id: str, **fields: Unpack[Registration]) -> Worker:
    """Register a worker as online and in good health; a name that is known is registered anew, and stays cordoned.

    Args:
        session: An open session.
        worker_id: Its Celery node name.
        fields: The worker's own report.
    """
    at = now(session)
    fresh = {"status": "online", "health": "ok", "device_faults": 0, "drain_asked": False, "foreign_bytes": None}
    fresh |= {"host_restart_asked": False, "resident": None, "bases": None}
    worker = session.merge(Worker(id=worker_id, registered_at=at, last_seen_at=at, **{**fresh, **fields}))
    if not worker.cordoned:
        worker.note = None
    session.flush()
    return worker


def record_heartbeat(
    session: Session, worker_id: str, *, foreign_bytes: int | None = None, resident: Resident | None = None
) -> Worker | None:
    """Record that a worker lives; an offline one is online again, a draining one stays draining.

    Args:
        session: An open session.
        worker_id: The worker.
        foreign_bytes: Memory that other users' processes hold on the worker's device now; None where it is unknown.
        resident: The worker's trainer host; None without one.

    Returns:
        The row, by which the worker learns of a cordon or a drain; None if it never registered.
    """
    found = session.get(Worker, worker_id, populate_existing=True)
    if found is None:
        return None
    found.last_seen_at = now(session)
    found.status = "draining" if found.status == "draining" else "online"
    found.foreign_bytes = foreign_bytes
    _note_resident(found, resident)
    session.flush()
    return found


def record_resident(session: Session, worker_id: str, resident: Resident | None) -> None:
    """Record the trainer host of a worker, and the base that it holds, for the next scheduling round."""
    found = session.get(Worker, worker_id, populate_existing=True, with_for_update=True)
    if found is not None:
        _note_resident(found, resident)
        session.flush()


def _note_resident(worker: Worker, resident: Resident | None) -> None:
    worker.resident = resident.model_dump(mode="json") if resident else None
    worker.bases = [resident.key] if resident and resident.key else None


def cordon(session: Session, worker_id: str, note: str = "") -> bool:
    """Stop giving a worker work until ``uncordon``, also after its restart; its running stage continues.

    Returns:
        False if there is no worker of that name.
    """
    return _change(session, worker_id, cordoned=True, note=note or "cordoned")


def uncordon(session: Session, worker_id: str) -> bool:
    """Give a worker work again, and trust an unhealthy one once more; False if there is none of that name."""
    return _change(session, worker_id, cordoned=False, health="ok", device_faults=0, note=None)


def drain(session: Session, worker_id: str) -> bool:
    """Mark a worker as draining, so that it gets no more work; False if there is none of that name."""
    return _change(session, worker_id, status="draining")


def request_drain(session: Session, worker_id: str) -> bool:
    """Request that a worker returns its job and leaves; it reads this at its next heartbeat. False: no such worker."""
    return _change(session, worker_id, drain_asked=True)


def request_host_restart(session: Session, worker_id: str) -> bool:
    """Request that a worker ends its trainer host after checkpoints; it reads this at its next heartbeat."""
    return _change(session, worker_id, host_restart_asked=True)


def clear_host_restart(session: Session, worker_id: str) -> bool:
    """Record that a worker has ended its trainer host, as it was asked to."""
    return _change(session, worker_id, host_restart_asked=False)


def mark_offline(session: Session, worker_id: str) -> bool:
    """Mark a worker that leaves as offline; False if there is none of that name."""
    return _change(session, worker_id, status="offline")


def mark_silent_workers_offline(session: Session, silent_s: float, at: datetime | None = None) -> list[str]:
    """Mark workers offline that sent no heartbeat for that long; return their names.

    Args:
        session: An open session of all tenants.
        silent_s: Seconds without a heartbeat.
        at: The present time by the database's clock; read from it unless given.
    """
    since = (at or now(session)) - timedelta(seconds=silent_s)
    if session.scalar(_silent_statement(), {"since": since}) is None:  # most rounds mark none, and write nothing
        return []
    late = (Worker.status != "offline", Worker.last_seen_at < since)
    marked = update(Worker).where(*late).values(status="offline").returning(Worker.id)
    return sorted(session.scalars(marked.execution_options(synchronize_session=False)))


@cache
def _silent_statement() -> Select[str]:
    since = bindparam("since", type_=Worker.last_seen_at.type)
    return select(Worker.id).where(Worker.status != "offline", Worker.last_seen_at < since).limit(1)


def count_device_fault(session: Session, worker_id: str, message: str, host: str = "") -> int:
    """Count a device error of a worker, which is unhealthy after the second in a row; return the count.

    Args:
        session: An open session.
        worker_id: The worker.
        message: The error's words.
        host: The generation of the trainer host in which the error occurred: one crash counts once, however many runs
            it ends. Empty for a process of a single run.
    """
    worker = session.get(Worker, worker_id, populate_existing=True, with_for_update=True)
    if worker is None or (host and worker.faulted_host == host):
        return 0
    worker.faulted_host = host or worker.faulted_host
    worker.device_faults += 1
    if worker.device_faults >= FAULTS_IN_A_ROW:
        worker.health, worker.note = "unhealthy", f"{worker.device_faults} device errors in a row; last: {message}"
    session.flush()
    return worker.device_faults


def reset_device_faults(session: Session, worker_id: str) -> None:
    """Reset the count of device errors of a worker on which a stage succeeded."""
    clean = update(Worker).where(Worker.id == worker_id, Worker.device_faults > 0).values(device_faults=0)
    session.execute(clean.execution_options(synchronize_session=False))


def common_workers(session: Session, foreign_limit_bytes: int) -> list[WorkerGroup]:
    """Count the slots of the workers that take work and are open to every job, by kind and GPU type.

    Hundreds of alike workers are one row, so that a round does not read each of them. ``memory_bytes`` is the least.
    """
    rows = session.execute(_common_statement(foreign_limit_bytes))
    return [WorkerGroup(kind, gpu_type, int(memory), int(count)) for kind, gpu_type, memory, count in rows]


def other_workers(session: Session, foreign_limit_bytes: int) -> list[WorkerState]:
    """Read the other workers that are online: reserved ones, those with labels, and those that take no work now."""
    return [WorkerState(*row) for row in session.execute(_others_statement(foreign_limit_bytes))]


def warm_workers(session: Session, foreign_limit_bytes: int) -> list[WarmWorker]:
    """Read the common workers that hold a base in memory and read a queue of their own, in the order of their names."""
    return [
        WarmWorker(name, gpu_type, bases)
        for name, gpu_type, bases, queues in session.execute(_warm_statement(foreign_limit_bytes))
        if any(queue.endswith(f"{DIRECT}{name}") for queue in queues)
    ]


def queues_that_are_read(session: Session, foreign_limit_bytes: int) -> set[str]:
    """List the queues of the workers that are online and take work."""
    ready = select(Worker.queues).where(_ready(foreign_limit_bytes))
    return {name for queues in session.scalars(ready) for name in queues}


def _ready(foreign_limit_bytes: int) -> ColumnElement[bool]:
    """Build the condition of a worker that takes work: one without an ``obstacle``."""
    return and_(
        Worker.status == "online",
        Worker.cordoned.is_(False),
        Worker.health == "ok",
        func.coalesce(Worker.foreign_bytes, 0) <= foreign_limit_bytes,
    )


@cache
def _common_statement(foreign_limit_bytes: int) -> Select[*tuple[Any, ...]]:
    """Build the count of the common workers, once: a round runs it each second."""
    least, slots = func.min(func.coalesce(Worker.memory_bytes, 0)), func.sum(Worker.slots)
    alike = select(Worker.kind, Worker.gpu_type, least, slots).where(_common(foreign_limit_bytes))
    return alike.group_by(Worker.kind, Worker.gpu_type).order_by(Worker.kind, Worker.gpu_type)


@cache
def _others_statement(foreign_limit_bytes: int) -> Select[*tuple[Any, ...]]:
    columns = [getattr(Worker, name) for name in WorkerState._fields]
    others = select(*columns).where(Worker.status == "online", ~_common(foreign_limit_bytes))
    return others.order_by(Worker.id)


@cache
def _warm_statement(foreign_limit_bytes: int) -> Select[*tuple[Any, ...]]:
    columns = (Worker.id, Worker.gpu_type, Worker.bases, Worker.queues)
    return select(*columns).where(_common(foreign_limit_bytes), Worker.bases.is_not(None)).order_by(Worker.id)


def _common(foreign_limit_bytes: int) -> ColumnElement[bool]:
    open_to_all = and_(Worker.labels == "", func.coalesce(Worker.reserved_for, "") == "")
    return and_(_ready(foreign_limit_bytes), open_to_all)


def obstacle(worker: Worker | WorkerState, foreign_limit_bytes: int) -> str:
    """Return the reason why a worker takes no work now, in words; empty if it takes work."""
    if worker.status != "online":
        return worker.status
    if worker.cordoned:
        return "cordoned" if worker.note in (None, "", "cordoned") else f"cordoned: {worker.note}"
    if worker.health != "ok":
        return f"{worker.health}: {worker.note or ''}".rstrip(": ")
    if (worker.foreign_bytes or 0) > foreign_limit_bytes:
        return f"somebody else holds {(worker.foreign_bytes or 0) / 2**30:.1f} GiB of its device's memory"
    return ""


def _change(session: Session, worker_id: str, **values: Unpack[_Change]) -> bool:
    changed = update(Worker).where(Worker.id == worker_id).values(**values).returning(Worker.id)
    return session.scalar(changed.execution_options(synchronize_session=False)) is not None
