"""What the record lets go of: the data of jobs that ended long ago and that no other job builds on; old checkpoints.

A job that goes on from another one keeps that one whole, for as long as it could itself be retried; so heirs are let go
before what they inherited from. The rows are changed first and the files removed after the commit: nobody begins to
build on what is about to go, and what a crash leaves lying is removed with the job's logs.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, delete, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from .journal import FURTHEST, take
from .schedule_tables import Slot
from .schedules import WAITING
from .states import Status
from .tables import Adapter, Checkpoint, Job, Worker

ENDED = tuple(status for status in Status if status.final)
AT_ONCE = 200
"""Jobs that are let go in one round; the next round takes the others."""

KEPT_SLOTS = 1000
"""Of each schedule so many of its last times stay in the record: two years of a time each night, with room."""


def expired(session: Session, before: datetime) -> list[str]:
    """Jobs that ended before that time and still hold checkpoints or data, heirs first."""
    ours = select(Job.id).where(*_ended(before), or_(Job.prepared_uri.is_not(None), _has_checkpoints()))
    return list(session.scalars(ours.order_by(Job.created_at.desc(), Job.id.desc()).limit(AT_ONCE)))


def let_go(session: Session, job_id: str, before: datetime) -> bool:
    """Take a job's checkpoints and prepared data out of the record; its files may be removed after the commit.

    Returns:
        False where the job lives, ended later, or another job builds on it: its files stay.
    """
    job = take(session, job_id, *_ended(before))
    if job is None or _built_upon(session, job_id):
        return False
    session.execute(delete(Checkpoint).where(Checkpoint.job_id == job_id))
    job.prepared_uri = None
    session.flush()
    return True


def crowded(session: Session, keep: int) -> list[str]:
    """Jobs that hold more checkpoints than are kept, whatever their state."""
    count = func.count(Checkpoint.step)
    many = select(Checkpoint.job_id).group_by(Checkpoint.job_id).having(count > keep)
    return list(session.scalars(many.order_by(Checkpoint.job_id).limit(AT_ONCE)))


def newest(session: Session, job_id: str, keep: int) -> list[str]:
    """The URIs of a job's last checkpoints, the furthest first."""
    rows = select(Checkpoint.uri).where(Checkpoint.job_id == job_id).order_by(*FURTHEST).limit(keep)
    return list(session.scalars(rows))


def supersede(session: Session, job_id: str, keep: int) -> list[str]:
    """Take a job's older checkpoints out of the record: all but the last ones and the one it was resumed from.

    Returns:
        Their URIs; the files may be removed after the commit.
    """
    job = take(session, job_id)
    if job is None:
        return []
    rows = session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(*FURTHEST)).all()
    going = [row for row in rows[keep:] if row.step != job.resume_step]
    for row in going:
        session.delete(row)
    session.flush()
    return [row.uri for row in going]


def with_logs(session: Session, before: datetime) -> list[str]:
    """Jobs that ended before that time, were let go, and may still have logs."""
    ours = select(Job.id).where(*_ended(before), Job.log_uri.is_(None), Job.prepared_uri.is_(None), ~_has_checkpoints())
    return list(session.scalars(ours.order_by(Job.finished_at).limit(AT_ONCE)))


def logs_gone(session: Session, job_id: str) -> None:
    """A job's logs were removed."""
    job = take(session, job_id, Job.status.in_(ENDED))
    if job is not None:
        job.log_uri = ""
        session.flush()


def published_below(session: Session, uri: str) -> set[str]:
    """The URIs of published adapters below a folder: they are never swept."""
    return set(session.scalars(select(Adapter.uri).where(Adapter.uri.startswith(f"{uri}/", autoescape=True))))


def forget_slots(session: Session, keep: int = KEPT_SLOTS) -> int:
    """Forget the older times of each schedule, but none that waits or whose job is not at its end; how many went."""
    count = func.count(Slot.key)
    crowded = session.scalars(select(Slot.schedule_id).group_by(Slot.schedule_id).having(count > keep)).all()
    gone = 0
    for schedule_id in crowded:
        mine = select(Slot.key).where(Slot.schedule_id == schedule_id)
        newest = session.scalars(mine.order_by(Slot.at.desc(), Slot.key.desc()).limit(keep)).all()
        unfinished = exists().where(Job.id == Slot.job_id, Job.status.not_in(ENDED))
        older = delete(Slot).where(
            Slot.schedule_id == schedule_id, Slot.key.not_in(newest), Slot.outcome != WAITING, ~unfinished
        )
        gone += len(session.scalars(older.returning(Slot.key)).all())
    return gone


def forget_workers(session: Session, before: datetime) -> int:
    """Forget workers that went offline and were not seen since then, as pods do whose names never come back.

    One that a person cordoned or whose device failed stays, since it would be trusted again if it came back.
    """
    away = (Worker.status == "offline", Worker.last_seen_at < before)
    trusted = (Worker.cordoned.is_(False), Worker.health == "ok")
    return len(session.scalars(delete(Worker).where(*away, *trusted).returning(Worker.id)).all())


def _ended(before: datetime) -> tuple[ColumnElement[bool], ...]:
    return (Job.status.in_(ENDED), Job.finished_at < before)


def _has_checkpoints() -> ColumnElement[bool]:
    return exists().where(Checkpoint.job_id == Job.id).correlate(Job)


def _built_upon(session: Session, job_id: str) -> bool:
    heir = aliased(Job)
    holds = or_(heir.status.not_in(ENDED), heir.prepared_uri.is_not(None))
    return session.scalar(select(heir.id).where(heir.resume_of == job_id, holds).limit(1)) is not None
