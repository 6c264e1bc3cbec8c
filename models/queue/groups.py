"""Counts the waiting jobs by lane, priority and age, so that a forecast need not read every row."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, case, func, literal, literal_column, select, union_all
from sqlalchemy.orm import Session

from ..states import JobClass, Stage
from ..tables import Hold, Job
from .waiting import HEAD, LANE, Head, in_queue, rested

EXACT = 2_000
"""Waiting jobs up to which a forecast reads every row."""
SAMPLED = 11
"""One job in so many gives its memory and its estimate to the averages on SQLite; a prime, since programs submit in
rhythms of their own."""
_NEED = case((Job.gpu == "auto", func.coalesce(Job.memory_bytes, 0)))
_HOLD = select(Hold.wanted_ms).where(Hold.job_id == Job.id).scalar_subquery()


def _sample(value: ColumnElement[Any]) -> ColumnElement[float]:
    """Build the average of a sample, or the value of the oldest job where the sample is empty.

    To read the value takes SQLite longer than to count the job: memory stands behind the JSON of a row, an estimate in
    another table. A column outside of the aggregates has the value of the row with the least ``created_at``.
    """
    chosen = literal_column("job.rowid") % SAMPLED == 0
    return func.coalesce(func.avg(case((chosen, value))), value)


_SAMPLES = (_sample(_NEED), _sample(_HOLD))


class GroupCount(NamedTuple):
    """Waiting jobs that are equal in the first columns.

    Attributes:
        aged: True for jobs that were accepted before the time at which age decides.
        older: True for jobs that come before the reference in age.
        first_at: The time at which the oldest of them was accepted.
        memory_bytes: The device memory that jobs of ``gpu: auto`` need, on average; None for the others.
        hold_ms: The device milliseconds that they are estimated to take, on average; None without an estimate.
    """

    stage: Stage
    job_class: JobClass
    gpu: str
    labels: str
    tenant: str
    recovered: bool
    priority: int
    aged: bool
    older: bool
    jobs: int
    first_at: datetime
    memory_bytes: float | None
    hold_ms: float | None


def _waiting(at: datetime) -> tuple[ColumnElement[bool], ...]:
    return (in_queue(), Job.stage != Stage.PUBLISH, *rested(at))


def all_heads(session: Session, at: datetime) -> list[Head] | None:
    """Read every waiting job that only waits for a slot; None where there are more than ``EXACT``."""
    rows = session.execute(select(*HEAD).where(*_waiting(at)).limit(EXACT + 1)).all()
    return None if len(rows) > EXACT else [Head(*row) for row in rows]


def count_groups(
    session: Session, at: datetime, *, aged_before: datetime, reference: tuple[datetime, str] | None
) -> list[GroupCount]:
    """Count the waiting jobs that only wait for a slot.

    Args:
        session: An open session.
        at: The present time; a job that rests after a failure is left out.
        aged_before: Jobs that were accepted before this time have aged.
        reference: Time and id of the job with which the others are compared in age; None compares none.
    """
    aged = Job.created_at < aged_before
    older: ColumnElement[bool] = literal(value=False)
    if reference is not None:
        before = (Job.created_at == reference[0]) & (Job.id < reference[1])
        older = (Job.created_at < reference[0]) | before
    if session.get_bind().dialect.name != "sqlite":
        averages = (func.avg(_NEED), func.avg(Hold.wanted_ms))
        rows = _counts(at, (aged, older), averages).outerjoin(Hold, Hold.job_id == Job.id)
        return [GroupCount(*row) for row in session.execute(rows.group_by("aged", "older"))]
    marks = [(True, False), (False, False)]
    if reference is not None:  # either each job that has aged is older, or each older one has aged
        marks = [(True, True), (False, False), (False, True) if reference[0] >= aged_before else (True, False)]
    parts = [
        _counts(at, (literal(value=old), literal(value=first)), _SAMPLES).where(
            aged if old else ~aged, older if first else ~older
        )
        for old, first in marks
    ]
    return [GroupCount(*row) for row in session.execute(union_all(*parts))]


def _counts(
    at: datetime, marks: Sequence[ColumnElement[bool]], averages: Sequence[ColumnElement[float]]
) -> Select[*tuple[Any, ...]]:
    """Build the count of waiting jobs by lane and priority, with the two marks of their age and the two averages.

    SQLite has to sort the jobs where it counts them by an expression. Where the marks are constants, the groups follow
    each other in the index ``ix_job_turn``, and SQLite reads no row of another part.
    """
    keys = (*LANE, Job.recovered, Job.priority)
    marked = (marks[0].label("aged"), marks[1].label("older"))
    rows = select(*keys, *marked, func.count(), func.min(Job.created_at), *averages)
    return rows.where(*_waiting(at)).group_by(*keys)
