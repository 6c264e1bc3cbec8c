"""Counts the waiting jobs by lane, priority and age, so that a forecast need not read every row."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, case, func, literal, select
from sqlalchemy.orm import Session

from ..states import JobClass, Stage
from ..tables import Hold, Job
from .waiting import HEAD, LANE, Head, in_queue, rested

EXACT = 2_000
"""Waiting jobs up to which a forecast reads every row."""


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
    # SQLite reads a row's JSON to get to its memory, which counts for the jobs that take any type alone
    need = case((Job.gpu == "auto", func.coalesce(Job.memory_bytes, 0)))
    keys = (*LANE, Job.recovered, Job.priority, aged.label("aged"), older.label("older"))
    counted = (func.count(), func.min(Job.created_at), func.avg(need), func.avg(Hold.wanted_ms))
    rows = select(*keys, *counted).outerjoin(Hold, Hold.job_id == Job.id).where(*_waiting(at)).group_by(*keys)
    return [GroupCount(*row) for row in session.execute(rows)]
