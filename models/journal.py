"""What a running attempt writes down beside its status: events, progress, metric points, checkpoints.

Everything but ``event`` is guarded like a transition: it changes nothing unless the attempt is the present one, runs,
and belongs to the worker that writes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from .database import now
from .states import Stage, Status
from .tables import Adapter, Attempt, Checkpoint, Event, Job, MetricPoint

COLUMNS = frozenset(
    {
        "base", "resolved", "prepared", "prepared_uri", "dataset_sha256", "memory_bytes", "step", "steps",
        "resume_step", "progress", "result", "metrics", "evaluation", "summary", "warnings", "adapter_uri",
        "log_uri", "name",
    }
)  # fmt: skip
"""The columns that a stage may fill; everything else changes through transitions alone."""

FURTHEST = (Checkpoint.step.desc(), Checkpoint.created_at.desc())
"""The order in which checkpoints are tried."""

_MEASURED = tuple(c.key for c in MetricPoint.__table__.columns if not c.primary_key and c.key != "at")


def take(session: Session, job_id: str, *guard: ColumnElement[bool]) -> Job | None:
    """The guarded UPDATE: lock the job's row if every condition holds now; None if one does not.

    The row comes back as it is in the database at that moment, and nobody else changes it until the caller commits.
    """
    changed = (
        update(Job)
        .where(Job.id == job_id, *guard)
        .values(updated_at=now(session))
        .returning(Job)
        .execution_options(populate_existing=True, synchronize_session=False)
    )
    return session.scalars(changed).one_or_none()


def owned(attempt: int, worker_id: str) -> tuple[ColumnElement[bool], ...]:
    """The guard of whatever a running attempt does."""
    return (Job.attempt == attempt, Job.status == Status.RUNNING, Job.worker_id == worker_id)


def event(  # noqa: PLR0917  (who, how bad, what: the order of a log line)
    session: Session,
    job_id: str,
    attempt: int,
    level: str,
    kind: str,
    message: str,
    data: dict[str, Any] | None = None,
) -> None:
    """Append to a job's history."""
    session.add(
        Event(job_id=job_id, attempt=attempt, at=now(session), level=level, kind=kind, message=message, data=data)
    )
    session.flush()


def apply(job: Job, values: dict[str, Any]) -> None:
    """Write a stage's results into their columns; warnings are added to those that stand there.

    Raises:
        ValueError: A value belongs to no column that a stage may fill.
    """
    unknown = values.keys() - COLUMNS
    if unknown:
        raise ValueError(f"a stage can't fill {', '.join(sorted(unknown))}; it fills {', '.join(sorted(COLUMNS))}")
    for name, value in values.items():
        if name == "warnings":
            job.warnings = [*job.warnings, *(text for text in value if text not in job.warnings)]
        else:
            setattr(job, name, value)


def progress(session: Session, job_id: str, attempt: int, worker_id: str, fields: dict[str, Any]) -> bool:
    """Record how far a running attempt is: known columns by their name, the rest into the ``progress`` object."""
    job = take(session, job_id, *owned(attempt, worker_id))
    if job is None:
        return False
    apply(job, {name: value for name, value in fields.items() if name in COLUMNS})
    rest = {name: value for name, value in fields.items() if name not in COLUMNS}
    if rest:
        job.progress = {**(job.progress or {}), **rest}
    row = session.get(Attempt, (job_id, attempt))
    if row is not None:
        row.steps_done = max(row.steps_done, job.step)
        row.resume_step = fields.get("resume_step", row.resume_step)
    session.flush()
    return True


def checkpoint(
    session: Session,
    job_id: str,
    attempt: int,
    worker_id: str,
    *,
    step: int,
    uri: str,
    size_bytes: int,
    manifest_sha256: str,
) -> bool:
    """Make a checkpoint the job's; False if the attempt was fenced meanwhile, and the checkpoint is nobody's."""
    if take(session, job_id, *owned(attempt, worker_id), Job.stage == Stage.TRAIN) is None:
        return False
    session.merge(
        Checkpoint(
            job_id=job_id,
            attempt=attempt,
            step=step,
            uri=uri,
            size_bytes=size_bytes,
            manifest_sha256=manifest_sha256,
            created_at=now(session),
        )
    )
    event(session, job_id, attempt, "info", "checkpoint", f"checkpoint at step {step}", {"step": step, "uri": uri})
    return True


def metric_points(
    session: Session, job_id: str, attempt: int, worker_id: str, points: Sequence[dict[str, Any]]
) -> bool:
    """Add measurements, each a dict with ``step`` and what was measured; several of one step share a row.

    Args:
        session: An open session.
        job_id: The job.
        attempt: The attempt that measured.
        worker_id: Its worker.
        points: ``step`` and any of train_loss, eval_loss, learning_rate, grad_norm, tokens_per_s, gpu_memory_bytes,
            gpu_utilisation; other keys are left out.
    """
    if take(session, job_id, *owned(attempt, worker_id)) is None:
        return False
    merged: dict[int, dict[str, Any]] = {}
    for point in points:
        known = {name: point[name] for name in _MEASURED if point.get(name) is not None}
        merged.setdefault(int(point["step"]), {}).update(known)
    if not merged:
        return True
    shared = {**dict.fromkeys(_MEASURED), "job_id": job_id, "attempt": attempt, "at": now(session)}
    insert = inserter(session)(MetricPoint).values([{**shared, "step": step, **merged[step]} for step in merged])
    keep = {name: func.coalesce(insert.excluded[name], getattr(MetricPoint, name)) for name in _MEASURED}
    session.execute(insert.on_conflict_do_update(index_elements=["job_id", "attempt", "step"], set_=keep))
    return True


def evaluated_again(session: Session, job_id: str, values: dict[str, Any]) -> bool:
    """A completed job was measured once more: its metrics are renewed, its status stays."""
    job = take(session, job_id, Job.status == Status.COMPLETED)
    if job is None:
        return False
    served = (job.evaluation or {}).get("serving")
    apply(job, values)
    if served:
        job.evaluation = {**(job.evaluation or {}), "serving": served}
    if job.summary is not None:
        job.summary = {**job.summary, "metrics": job.metrics, "warnings": job.warnings}
    published = session.get(Adapter, job_id)
    if published is not None:
        published.metrics = job.metrics
    event(session, job_id, job.attempt, "info", "evaluated_again", "evaluated once more", {"metrics": job.metrics})
    return True


def measured_as_served(session: Session, job_id: str, values: dict[str, Any]) -> bool:
    """A completed job was measured on its base as that will be served; its own metrics stay.

    Args:
        session: An open session.
        job_id: The job.
        values: ``dtype`` (float32, bfloat16, float16), ``metrics``, ``warnings`` and ``uri`` of what was measured.
    """
    job = take(session, job_id, Job.status == Status.COMPLETED)
    if job is None:
        return False
    known = job.evaluation or {}
    job.evaluation = {**known, "serving": {**known.get("serving", {}), values["dtype"]: values}}
    told = f"measured on the base in {values['dtype']}, as it will be served"
    event(session, job_id, job.attempt, "info", "measured_as_served", told, {"metrics": values["metrics"]})
    return True


def explain_waits(session: Session, waits: Mapping[str, str]) -> None:
    """Write down why each pending job waits; a row that is the same already is left alone."""
    known = dict(session.execute(select(Job.id, Job.wait_reason).where(Job.status == Status.PENDING)).all())
    changed = [
        {"named": job_id, "because": because} for job_id, because in waits.items() if known.get(job_id) != because
    ]
    if changed:
        one = update(Job).where(Job.id == bindparam("named"), Job.status == Status.PENDING)
        session.connection().execute(one.values(wait_reason=bindparam("because")), changed)


def newest_step(session: Session, job: Job) -> int | None:
    """The last step that an earlier attempt committed, or a job that this one is a retry of; None if there is none."""
    mine = (Checkpoint.job_id == job.id) & (Checkpoint.attempt < job.attempt)
    usable = or_(mine, Checkpoint.job_id.in_(ancestors(session, job)))
    return session.scalar(select(func.max(Checkpoint.step)).where(usable))


def ancestors(session: Session, job: Job) -> list[str]:
    """The jobs whose checkpoints this one may go on from, the nearest first."""
    found: list[str] = []
    before = job.resume_of
    while before is not None and before not in found:
        found.append(before)
        before = session.scalar(select(Job.resume_of).where(Job.id == before))
    return found


def inserter(session: Session) -> Any:
    """The ``insert`` of the session's database, which knows ON CONFLICT."""
    return sqlite_insert if session.connection().dialect.name == "sqlite" else postgresql_insert
