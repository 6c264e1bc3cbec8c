"""Reads the checkpoints of a job as OpenAI's form shows them, each with the losses at its step.

A job that asked for a checkpoint at the end of each epoch shows these alone, one an epoch; any other job shows all.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ScalarSelect, Select, exists, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from ...errors import RequestError
from ...models.database import get_database
from ...models.openai.model_ids import checkpoint_id
from ...models.scope.scope import Scope
from ...models.tables import Checkpoint, MetricPoint
from .jobs import find

Value = InstrumentedAttribute[float | None]
Rows = Select[int, datetime, float | None, float | None, float | None, float | None]
"""A statement for rows of step, time, training loss and accuracy, validation loss and accuracy."""


@dataclass(frozen=True, kw_only=True)
class CheckpointView:
    """A checkpoint: its id, its id as a model, its step, and the measurements that were the last at that step."""

    id: str
    created_at: datetime
    model: str
    job_id: str
    step: int
    train_loss: float | None
    train_accuracy: float | None
    valid_loss: float | None
    valid_accuracy: float | None


def page(tenant: str, job_id: str, *, after: str | None, limit: int) -> tuple[list[CheckpointView], bool]:
    """List a job's checkpoints, the newest first; the second value is True if more follow.

    Raises:
        RequestError: There is no such job (404), or ``after`` is no checkpoint of it.
    """
    found = find(tenant, job_id)
    with get_database().session(Scope.of(tenant)) as session:
        newest = _newest(job_id, of_epochs=bool(found.spec.get("epoch_checkpoints")))
        if after is not None:
            newest = newest.where(Checkpoint.step < _step_of(session, job_id, after))
        rows = session.execute(newest.limit(limit + 1)).all()
    return [_view(found.model_id, job_id, *row) for row in rows[:limit]], len(rows) > limit


def _newest(job_id: str, *, of_epochs: bool) -> Rows:
    """Select the checkpoints with the losses at their steps; where two attempts saved a step, the later one counts."""
    later = aliased(Checkpoint)
    again = exists().where(later.job_id == job_id, later.step == Checkpoint.step, later.attempt > Checkpoint.attempt)
    train, valid = MetricPoint.train_loss, MetricPoint.eval_loss
    wanted = select(
        Checkpoint.step,
        Checkpoint.created_at,
        _measured(job_id, train, train),
        _measured(job_id, train, MetricPoint.train_accuracy),
        _measured(job_id, valid, valid),
        _measured(job_id, valid, MetricPoint.eval_accuracy),
    ).where(Checkpoint.job_id == job_id, ~again)
    wanted = wanted.where(Checkpoint.epoch.is_not(None)) if of_epochs else wanted
    return wanted.order_by(Checkpoint.step.desc())


def _measured(job_id: str, loss: Value, value: Value) -> ScalarSelect[float | None]:
    """Select a value at the last point with a loss that the attempt of a checkpoint, or one before it, measured.

    The order is that of the key of the points, so that the database reads one of them.
    """
    place = tuple_(MetricPoint.attempt, MetricPoint.step)
    upto = place <= tuple_(Checkpoint.attempt, Checkpoint.step), MetricPoint.step <= Checkpoint.step
    last = select(value).where(MetricPoint.job_id == job_id, *upto, loss.is_not(None))
    ordered = last.order_by(MetricPoint.attempt.desc(), MetricPoint.step.desc())
    return ordered.limit(1).correlate(Checkpoint).scalar_subquery()


def _step_of(session: Session, job_id: str, cursor: str) -> int:
    step = cursor.removeprefix(f"ftckpt-{job_id}-")
    known = step.isdecimal() and len(step) < 10 and session.scalar(  # noqa: PLR2004  (digits of a number of steps)
        select(Checkpoint.step).where(Checkpoint.job_id == job_id, Checkpoint.step == int(step)).limit(1)
    )  # fmt: skip
    if not known:
        raise RequestError("after is no checkpoint of this job.", reason="invalid_cursor", param="after")
    return int(step)


def _view(
    model: str,
    job_id: str,
    step: int,
    at: datetime,
    *measured: float | None,
) -> CheckpointView:
    train_loss, train_accuracy, valid_loss, valid_accuracy = measured
    return CheckpointView(
        id=f"ftckpt-{job_id}-{step}",
        created_at=at,
        model=checkpoint_id(model, step),
        job_id=job_id,
        step=step,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        valid_loss=valid_loss,
        valid_accuracy=valid_accuracy,
    )
