"""Records what a running attempt reports beside its status: progress, metric points, checkpoints, results.

Every write is guarded like a transition: it changes nothing unless the attempt is the present one, runs, and belongs to
the worker that writes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from sqlalchemy import func
from sqlalchemy.orm import Session

from ..columns import serving_of
from ..database import now
from ..events import record_event
from ..rows import Claim, lock_if, owned, upsert_insert
from ..states import Stage, Status
from ..tables import Adapter, Attempt, Checkpoint, Job, MetricPoint
from ..tables.types import JsonObject


class Columns(TypedDict, total=False):
    """The columns of a job that a stage may fill; everything else changes through transitions alone."""

    base: JsonObject
    resolved: JsonObject
    prepared: JsonObject
    prepared_uri: str
    dataset_sha256: str
    memory_bytes: int
    expected_s: dict[str, float]
    step: int
    steps: int
    resume_step: int
    progress: JsonObject
    result: JsonObject
    metrics: JsonObject
    evaluation: JsonObject
    summary: JsonObject
    warnings: list[str]
    adapter_uri: str
    log_uri: str
    name: str


class PublishedAdapter(TypedDict):
    """The columns of the table of adapters that ``publish`` fills."""

    name: str
    uri: str
    base_name: str
    base_revision: str
    rank: int
    metrics: JsonObject | None
    size_bytes: int


class StageValues(Columns, total=False):
    """The results of a stage that succeeded: columns of the job, and what ``publish`` brings beside them."""

    adapter: PublishedAdapter
    challenge: JsonObject


class ServingEvaluation(TypedDict):
    """A measurement on the base in the dtype in which it will be served."""

    dtype: str
    metrics: JsonObject
    warnings: list[str]
    uri: str


COLUMNS = frozenset(Columns.__annotations__)
_MEASURED = tuple(c.key for c in MetricPoint.__table__.columns if not c.primary_key and c.key != "at")


def fill_columns(job: Job, values: Mapping[str, Any]) -> None:
    """Write a stage's results into their columns; warnings are added to those that stand there.

    Raises:
        ValueError: A value belongs to no column that a stage may fill.
    """
    columns = {name: value for name, value in values.items() if name not in ("adapter", "challenge")}
    unknown = columns.keys() - COLUMNS
    if unknown:
        raise ValueError(f"a stage can't fill {', '.join(sorted(unknown))}; it fills {', '.join(sorted(COLUMNS))}")
    for name, value in columns.items():
        if name == "warnings":
            job.warnings = [*job.warnings, *(text for text in value if text not in job.warnings)]
        else:
            setattr(job, name, value)


def record_progress(session: Session, claim: Claim, fields: Mapping[str, Any]) -> bool:
    """Record the progress of a running attempt: known columns by their name, the rest in the ``progress`` object.

    The step of an attempt never falls: a report that comes late says less than the record knows.
    """
    job = lock_if(session, claim.job_id, *owned(claim))
    if job is None:
        return False
    reached = job.step
    fill_columns(job, {name: value for name, value in fields.items() if name in COLUMNS})
    job.step = max(reached, job.step)
    rest = {name: value for name, value in fields.items() if name not in COLUMNS}
    if rest:
        job.progress = {**(job.progress or {}), **rest}
    row = session.get(Attempt, (claim.job_id, claim.attempt))
    if row is not None:
        row.steps_done = max(row.steps_done, job.step)
        row.resume_step = fields.get("resume_step", row.resume_step)
    session.flush()
    return True


def record_checkpoint(
    session: Session,
    claim: Claim,
    *,
    step: int,
    uri: str,
    size_bytes: int,
    manifest_sha256: str,
    epoch: int | None = None,
) -> bool:
    """Add a checkpoint to the job; False if the attempt was fenced meanwhile, and no job owns the checkpoint."""
    if lock_if(session, claim.job_id, *owned(claim), Job.stage == Stage.TRAIN) is None:
        return False
    session.merge(
        Checkpoint(
            job_id=claim.job_id,
            attempt=claim.attempt,
            step=step,
            uri=uri,
            size_bytes=size_bytes,
            manifest_sha256=manifest_sha256,
            epoch=epoch,
            created_at=now(session),
        )
    )
    data: JsonObject = {"step": step, "uri": uri}
    record_event(session, claim.job_id, claim.attempt, "info", "checkpoint", f"checkpoint at step {step}", data)
    return True


def record_metric_points(session: Session, claim: Claim, points: Sequence[Mapping[str, Any]]) -> bool:
    """Add measurements; several of one step share a row.

    Args:
        session: An open session.
        claim: The claim of the attempt that measured.
        points: Each has ``step`` and any of train_loss, train_accuracy, eval_loss, eval_accuracy, learning_rate,
            grad_norm, tokens_per_s, gpu_memory_bytes, gpu_utilisation; other keys are left out.
    """
    if lock_if(session, claim.job_id, *owned(claim)) is None:
        return False
    merged: dict[int, dict[str, Any]] = {}
    for point in points:
        known = {name: point[name] for name in _MEASURED if point.get(name) is not None}
        merged.setdefault(int(point["step"]), {}).update(known)
    if not merged:
        return True
    about = {"job_id": claim.job_id, "attempt": claim.attempt, "at": now(session)}
    shared = {**dict.fromkeys(_MEASURED), **about}
    insert = upsert_insert(session, MetricPoint).values([{**shared, "step": step, **merged[step]} for step in merged])
    keep = {name: func.coalesce(insert.excluded[name], getattr(MetricPoint, name)) for name in _MEASURED}
    session.execute(insert.on_conflict_do_update(index_elements=["job_id", "attempt", "step"], set_=keep))
    return True


def record_evaluation(session: Session, job_id: str, values: Columns) -> bool:
    """Record that a completed job was evaluated once more: its metrics are renewed, its status stays."""
    job = lock_if(session, job_id, Job.status == Status.COMPLETED)
    if job is None:
        return False
    served = serving_of(job)
    fill_columns(job, values)
    if served:
        job.evaluation = {**(job.evaluation or {}), "serving": served}
    if job.summary is not None:
        job.summary = {**job.summary, "metrics": job.metrics, "warnings": job.warnings}
    published = session.get(Adapter, job_id)
    if published is not None:
        published.metrics = job.metrics
    data: JsonObject = {"metrics": job.metrics}
    record_event(session, job_id, job.attempt, "info", "evaluated_again", "evaluated once more", data)
    return True


def record_serving_evaluation(session: Session, job_id: str, measured: ServingEvaluation) -> bool:
    """Record a completed job's metrics on its base in the dtype of serving; the job's own metrics stay."""
    job = lock_if(session, job_id, Job.status == Status.COMPLETED)
    if job is None:
        return False
    known = job.evaluation or {}
    job.evaluation = {**known, "serving": {**known.get("serving", {}), measured["dtype"]: measured}}
    message = f"measured on the base in {measured['dtype']}, as it will be served"
    data: JsonObject = {"metrics": measured["metrics"]}
    record_event(session, job_id, job.attempt, "info", "measured_as_served", message, data)
    return True
