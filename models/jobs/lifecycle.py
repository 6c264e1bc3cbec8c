"""Opens, charges and closes an attempt: the steps that several transitions share.

Every function works on a row that ``rows.lock_if`` holds, so no other process changes the row until the caller commits.
A charge goes into the job's own count and into its tenant's ledger in one transaction (``tenants.ledger``).
"""

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..columns import Progress, error_of, faults_of
from ..notifications.notices import Notice, queue_notice
from ..queue.use import add_use
from ..queue.wait_words import backoff_words, pause_words
from ..states import Reason, Stage, Status
from ..tables import Attempt, Checkpoint, Job
from ..tables.types import JsonObject
from ..tenants import ledger
from ..tenants.use import Use
from .outbox import queue_announcement
from .status import Cause, switch_status

ENDINGS = {Status.COMPLETED: Notice.DONE, Status.FAILED: Notice.FAILED, Status.CANCELLED: Notice.CANCELLED}
"""The notice about each end of a job."""


def open_attempt(session: Session, job: Job) -> None:
    """Write the attempt's row at its first claim; later stages of the attempt update it."""
    row = session.get(Attempt, (job.id, job.attempt), populate_existing=True)
    if row is None:
        row = Attempt(job_id=job.id, number=job.attempt, started_at=job.updated_at)
        session.add(row)
    row.worker_id, row.gpu_type, row.stage = str(job.worker_id), job.gpu_type, job.stage
    if job.stage is Stage.TRAIN:
        row.resume_step = row.steps_done = job.resume_step or 0


def close_attempt(session: Session, job: Job, outcome: str, error: JsonObject | None = None) -> None:
    """Write the attempt's outcome into its row, once."""
    row = session.get(Attempt, (job.id, job.attempt), populate_existing=True)
    if row is not None and row.ended_at is None:
        row.ended_at, row.outcome, row.error, row.stage = job.updated_at, outcome, error, job.stage


def charge(job: Job, price_per_hour: float, until: datetime | None = None) -> float:
    """Add the stage's time to the job's bill, if the stage held a GPU, and return the stage's seconds.

    Args:
        job: The job that leaves ``running``.
        price_per_hour: The price of its GPU, US dollars.
        until: The end of its lease, where its worker did not report the stage's end itself.
    """
    stop = min(until, job.updated_at) if until else job.updated_at
    seconds = max(0.0, (stop - (job.claimed_at or stop)).total_seconds())
    if job.stage is Stage.TRAIN:
        job.train_s += seconds
    if job.stage.on_gpu:
        used_s = device_seconds(job, seconds)
        job.gpu_seconds += used_s
        job.cost += used_s * price_per_hour / 3600
    return round(seconds, 3)


def device_seconds(job: Job, wall_s: float) -> float:
    """Return the seconds of its device that a stage has used: all of its time, or the share that its trainer reported.

    Where several jobs use a device at once, their shares together are the device's time; what was used after the last
    report of a trainer that was lost is not charged.
    """
    reported = Progress.read(job.progress)
    if reported is None or reported.device_s is None:
        return wall_s
    return min(wall_s, max(0.0, reported.device_s))


def charge_stage(session: Session, job: Job, price_per_hour: float, until: datetime | None = None) -> float:
    """Charge the stage's time to the job and to its tenant's month, and return the stage's seconds."""
    began, before_s = job.claimed_at, job.gpu_seconds
    seconds = charge(job, price_per_hour, until)
    if job.stage.on_gpu:
        add_use(session, job.tenant, job.gpu_seconds - before_s)
    ledger.settle(session, job, began, began + timedelta(seconds=seconds) if began else None)
    return seconds


def charge_again(session: Session, job: Job, began: datetime, price_per_hour: float) -> float:
    """Charge another evaluation of an ended job, from its start until now, and return its seconds."""
    before, seconds = Use.of(job.gpu_seconds, job.cost), max(0.0, (job.updated_at - began).total_seconds())
    job.gpu_seconds += seconds
    job.cost += seconds * price_per_hour / 3600
    add_use(session, job.tenant, seconds)
    ledger.charge_ended(session, job, Use.of(job.gpu_seconds, job.cost) - before, began, job.updated_at)
    return round(seconds, 3)


def return_to_front(session: Session, job: Job, reason: Reason, cause: Cause) -> None:
    """Set a job to pending, at the front of its queue; a pause that was requested takes effect."""
    pausing = job.pause_requested
    switch_status(session, job, Status.PENDING, cause, reason=Reason.PAUSED if pausing else reason)
    job.sent_at, job.recovered = None, True
    if job.preempt_requested:
        job.preempt_requested, job.preempted_at = False, job.updated_at
    if job.stage.on_gpu:
        job.gpu_type, job.released_at = None, None
    if pausing:
        job.paused, job.pause_requested, job.wait_reason = True, False, pause_words(job.id, job.limited)
        ledger.release(session, job)


def start_next_attempt(session: Session, job: Job, reason: Reason, cause: Cause, *, wait_s: float = 0.0) -> None:
    """Set a job to pending with the next attempt, at the front of its queue.

    Args:
        session: An open session.
        job: The row, held by the caller.
        reason: The reason that the row shows.
        cause: The event that explains it.
        wait_s: Seconds until the attempt may begin.
    """
    return_to_front(session, job, reason, cause)
    job.attempt += 1
    job.not_before = job.updated_at + timedelta(seconds=wait_s) if wait_s else None
    if wait_s and not job.paused:
        job.wait_reason = backoff_words(wait_s=wait_s, faults=faults_of(job))


def end(session: Session, job: Job, status: Status, *, price_per_hour: float = 0.0) -> None:
    """Make a job final, and queue the announcement of its end and the notices about it."""
    data: JsonObject = {"stage": job.stage.value}
    if job.status is Status.RUNNING and status is not Status.COMPLETED:
        data["seconds"] = charge_stage(session, job, price_per_hour, job.lease_until)
    ledger.close(session, job)
    close_attempt(session, job, status.value, job.error)
    job.finished_at, job.wait_reason, job.expires_at = job.updated_at, "", None
    job.paused = job.pause_requested = job.preempt_requested = False
    job.pause_cause = job.limited = None
    failed = status is Status.FAILED
    message = error_of(job).message if failed else status.value
    switch_status(session, job, status, Cause(status.value, message, data, "error" if failed else "info"))
    queue_announcement(session, job.id)
    queue_notice(session, ENDINGS[status], job.tenant, job.id, job_id=job.id)


def end_failed(session: Session, job: Job, error: JsonObject, price_per_hour: float) -> None:
    """Make a job final with an error: code, message, hint, stage, log_tail."""
    job.error = {"stage": job.stage.value, **error}
    end(session, job, Status.FAILED, price_per_hour=price_per_hour)


def take_back(session: Session, job: Job, max_attempts: int, price_per_hour: float) -> None:
    """Take a job from a worker that was lost: to its next attempt, or to its end after too many."""
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
    seconds = charge_stage(session, job, price_per_hour, until=lease)
    data: JsonObject = {"stage": stage.value, "seconds": seconds, "worker": lost, "stale_attempts": job.stale_attempts}
    message = f"{lost} gave no sign within its lease; {stage} starts again"
    close_attempt(session, job, "lost")
    start_next_attempt(session, job, Reason.WORKER_LOST, Cause("worker_lost", message, data, "warning"))
    session.flush()


def progressed(session: Session, job: Job) -> bool:
    """Return whether the attempt committed a checkpoint beyond the point from which it resumed."""
    if job.stage is not Stage.TRAIN:
        return False
    mine = (Checkpoint.job_id == job.id, Checkpoint.attempt == job.attempt)
    beyond = select(Checkpoint.step).where(*mine, Checkpoint.step > (job.resume_step or 0))
    return session.scalar(beyond.limit(1)) is not None
