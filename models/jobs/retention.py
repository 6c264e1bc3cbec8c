"""Drops data from the record: that of jobs that ended long ago and that no other job needs; old checkpoints.

A retry depends on the files of the job that it continues, for as long as the retry could itself be retried; so the
retry's data is dropped first. The rows are changed first and the files removed after the commit: no job begins to
depend on files that are about to go, and files that a crash leaves behind are removed with the job's logs.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, case, delete, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from ..queries import FURTHEST
from ..rows import lock_if
from ..schedules import WAITING
from ..states import DIRECT, FINAL, OWN
from ..tables import Adapter, Checkpoint, Job, ScheduleRun, Worker

AT_ONCE = 200
"""Jobs whose data is dropped in one round; the next round takes the others."""

KEPT_EPOCHS = 3
"""The number of the last epochs whose checkpoints stay in any case, for a job that asked for one at each end."""

KEPT_RUNS = 1000
"""The number of each schedule's last runs that stay in the record: two years of one run a night, with room."""


def expired(session: Session, before: datetime) -> list[str]:
    """List jobs that ended before that time and still hold checkpoints or data; a retry precedes its original."""
    ours = select(Job.id).where(*_ended(before), or_(Job.prepared_uri.is_not(None), _has_checkpoints()))
    return list(session.scalars(ours.order_by(Job.created_at.desc(), Job.id.desc()).limit(AT_ONCE)))


def drop_job_data(session: Session, job_id: str, before: datetime) -> bool:
    """Drop a job's checkpoints and prepared data from the record; its files may be removed after the commit.

    Returns:
        False where the job has not ended, ended later, or another job depends on it: its files stay.
    """
    job = lock_if(session, job_id, *_ended(before))
    if job is None or _is_continued(session, job_id):
        return False
    session.execute(delete(Checkpoint).where(Checkpoint.job_id == job_id))
    job.prepared_uri = None
    session.flush()
    return True


def with_many_checkpoints(session: Session, keep: int) -> list[str]:
    """List jobs of any status that hold more checkpoints than are kept."""
    count, epochs = func.count(Checkpoint.step), func.count(Checkpoint.epoch)
    more = case((epochs < KEPT_EPOCHS, epochs), else_=KEPT_EPOCHS)
    many = select(Checkpoint.job_id).group_by(Checkpoint.job_id).having(count > keep + more)
    return list(session.scalars(many.order_by(Checkpoint.job_id).limit(AT_ONCE)))


def newest(session: Session, job_id: str, keep: int) -> list[str]:
    """List the URIs of a job's last checkpoints, the furthest first."""
    rows = select(Checkpoint.uri).where(Checkpoint.job_id == job_id).order_by(*FURTHEST).limit(keep)
    return list(session.scalars(rows))


def supersede(session: Session, job_id: str, keep: int) -> list[str]:
    """Drop a job's older checkpoints from the record.

    The last ones stay, those of the last epochs (``KEPT_EPOCHS``), and the one that the job resumed from.

    Returns:
        Their URIs; the files may be removed after the commit.
    """
    job = lock_if(session, job_id)
    if job is None:
        return []
    rows = session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(*FURTHEST)).all()
    of_epochs = [row.epoch for row in rows if row.epoch is not None][:KEPT_EPOCHS]
    going = [row for row in rows[keep:] if row.step != job.resume_step and row.epoch not in of_epochs]
    for row in going:
        session.delete(row)
    session.flush()
    return [row.uri for row in going]


def with_logs(session: Session, before: datetime) -> list[str]:
    """List jobs that ended before that time, whose data was dropped, and that may still have logs."""
    ours = select(Job.id).where(*_ended(before), Job.log_uri.is_(None), Job.prepared_uri.is_(None), ~_has_checkpoints())
    return list(session.scalars(ours.order_by(Job.finished_at).limit(AT_ONCE)))


def mark_logs_removed(session: Session, job_id: str) -> None:
    """Mark a job's logs as removed."""
    job = lock_if(session, job_id, Job.status.in_(FINAL))
    if job is not None:
        job.log_uri = ""
        session.flush()


def published_below(session: Session, uri: str) -> set[str]:
    """Return the URIs of published adapters below a folder, which are never swept."""
    return set(session.scalars(select(Adapter.uri).where(Adapter.uri.startswith(f"{uri}/", autoescape=True))))


def forget_runs(session: Session, keep: int = KEPT_RUNS) -> int:
    """Delete the older runs of each schedule, but none that waits or whose job has not ended; return their number."""
    count = func.count(ScheduleRun.key)
    crowded = session.scalars(
        select(ScheduleRun.schedule_id).group_by(ScheduleRun.schedule_id).having(count > keep)
    ).all()
    gone = 0
    for schedule_id in crowded:
        mine = select(ScheduleRun.key).where(ScheduleRun.schedule_id == schedule_id)
        newest = session.scalars(mine.order_by(ScheduleRun.at.desc(), ScheduleRun.key.desc()).limit(keep)).all()
        unfinished = exists().where(Job.id == ScheduleRun.job_id, Job.status.not_in(FINAL))
        older = delete(ScheduleRun).where(
            ScheduleRun.schedule_id == schedule_id,
            ScheduleRun.key.not_in(newest),
            ScheduleRun.outcome != WAITING,
            ~unfinished,
        )
        gone += len(session.scalars(older.returning(ScheduleRun.key)).all())
    return gone


def queues_of_gone_workers(session: Session, before: datetime) -> list[str]:
    """List the queues that one worker alone read which is offline and sent no heartbeat since then."""
    gone = select(Worker.queues).where(Worker.status == "offline", Worker.last_seen_at < before)
    return sorted({name for names in session.scalars(gone) for name in names if OWN in name or DIRECT in name})


def forget_workers(session: Session, before: datetime) -> int:
    """Delete workers that are offline and sent no heartbeat since then, such as pods whose names never come back.

    A worker that a person cordoned or whose device failed stays, since it would be trusted again if it came back.
    """
    away = (Worker.status == "offline", Worker.last_seen_at < before)
    trusted = (Worker.cordoned.is_(False), Worker.health == "ok")
    return len(session.scalars(delete(Worker).where(*away, *trusted).returning(Worker.id)).all())


def _ended(before: datetime) -> tuple[ColumnElement[bool], ...]:
    return (Job.status.in_(FINAL), Job.finished_at < before)


def _has_checkpoints() -> ColumnElement[bool]:
    return exists().where(Checkpoint.job_id == Job.id).correlate(Job)


def _is_continued(session: Session, job_id: str) -> bool:
    heir = aliased(Job)
    holds = or_(heir.status.not_in(FINAL), heir.prepared_uri.is_not(None))
    return session.scalar(select(heir.id).where(heir.resume_of == job_id, holds).limit(1)) is not None
