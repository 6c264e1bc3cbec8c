"""How an attempt begins, what it costs, and how it ends: what the transitions share.

Every function here works on a row that ``journal.take`` holds: nobody else changes it until the caller commits.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .journal import event
from .outbox import announce
from .states import Reason, Stage, Status
from .tables import Attempt, Checkpoint, Job


def open_attempt(session: Session, job: Job) -> None:
    """Write the attempt's row at its first claim; later stages of the attempt go on with it."""
    row = session.get(Attempt, (job.id, job.attempt), populate_existing=True)
    if row is None:
        row = Attempt(job_id=job.id, number=job.attempt, started_at=job.updated_at)
        session.add(row)
    row.worker_id, row.gpu_type, row.stage = str(job.worker_id), job.gpu_type, job.stage
    if job.stage is Stage.TRAIN:
        row.resume_step = row.steps_done = job.resume_step or 0


def close_attempt(session: Session, job: Job, outcome: str, error: dict[str, Any] | None = None) -> None:
    """Say in the attempt's row how it ended."""
    row = session.get(Attempt, (job.id, job.attempt), populate_existing=True)
    if row is not None and row.ended_at is None:
        row.ended_at, row.outcome, row.error, row.stage = job.updated_at, outcome, error, job.stage


def charge(job: Job, price_per_hour: float, until: datetime | None = None) -> float:
    """Add the stage's time to the bill, if it held a GPU; returns the stage's seconds.

    Args:
        job: The job that leaves ``running``.
        price_per_hour: Dollars.
        until: The end of its lease, where it did not say itself that it is over.
    """
    stop = min(until, job.updated_at) if until else job.updated_at
    seconds = max(0.0, (stop - (job.claimed_at or stop)).total_seconds())
    if job.stage is Stage.TRAIN:
        job.train_s += seconds
    if job.stage.on_gpu:
        job.gpu_seconds += seconds
        job.cost += seconds * price_per_hour / 3600
    return round(seconds, 3)


def let_go(job: Job, status: Status) -> None:
    """Nobody holds the job any more."""
    job.status, job.worker_id, job.lease_until, job.claimed_at = status, None, None, None


def to_front(job: Job, reason: Reason) -> None:
    """Back to pending, at the front; a pause that was asked for holds now."""
    let_go(job, Status.PENDING)
    job.sent_at, job.recovered, job.reason = None, True, reason
    if job.stage.on_gpu:
        job.gpu_type, job.released_at = None, None
    if job.pause_requested:
        job.paused, job.pause_requested, job.reason = True, False, Reason.PAUSED


def again(job: Job, reason: Reason) -> None:
    """Back to pending with the next attempt, at the front."""
    to_front(job, reason)
    job.attempt += 1


def end(session: Session, job: Job, status: Status, *, price_per_hour: float = 0.0) -> None:
    """Make a job final and owe its caller the news."""
    data: dict[str, Any] = {"stage": job.stage.value}
    if job.status is Status.RUNNING and status is not Status.COMPLETED:
        data["seconds"] = charge(job, price_per_hour, job.lease_until)
    close_attempt(session, job, status.value, job.error)
    job.finished_at = job.updated_at
    let_go(job, status)
    job.reason, job.wait_reason = Reason.NONE, ""
    job.paused = job.pause_requested = False
    level, message = (
        ("error", str((job.error or {}).get("message", ""))) if status is Status.FAILED else ("info", status)
    )
    event(session, job.id, job.attempt, level, status.value, message, data)
    announce(session, job.id)


def end_failed(session: Session, job: Job, error: dict[str, Any], price_per_hour: float) -> None:
    """Make a job final with an error: code, message, hint, stage, log_tail."""
    job.error = {"stage": job.stage.value, **error}
    end(session, job, Status.FAILED, price_per_hour=price_per_hour)


def take_back(session: Session, job: Job, max_attempts: int, price_per_hour: float) -> None:
    """A worker was lost: what becomes of its job."""
    lost, stage, lease = job.worker_id, job.stage, job.lease_until
    if job.cancel_requested:
        end(session, job, Status.CANCELLED, price_per_hour=price_per_hour)
        return
    job.stale_attempts = 0 if progressed(session, job) else job.stale_attempts + 1
    if job.stale_attempts >= max_attempts:
        message = f"{stage} lost its worker {job.stale_attempts} times without getting further; last on {lost}."
        hint = "Look at that worker's log and at the job's log; then submit it again."
        end_failed(session, job, {"code": "worker_lost", "message": message, "hint": hint}, price_per_hour)
        return
    seconds = charge(job, price_per_hour, until=lease)
    data = {"stage": stage.value, "seconds": seconds, "worker": lost, "stale_attempts": job.stale_attempts}
    message = f"{lost} gave no sign within its lease; {stage} starts again"
    event(session, job.id, job.attempt, "warning", "worker_lost", message, data)
    close_attempt(session, job, "lost")
    again(job, Reason.WORKER_LOST)
    session.flush()


def progressed(session: Session, job: Job) -> bool:
    """Whether the attempt committed a checkpoint beyond the point from which it resumed."""
    if job.stage is not Stage.TRAIN:
        return False
    mine = (Checkpoint.job_id == job.id, Checkpoint.attempt == job.attempt)
    beyond = select(Checkpoint.step).where(*mine, Checkpoint.step > (job.resume_step or 0))
    return session.scalar(beyond.limit(1)) is not None
