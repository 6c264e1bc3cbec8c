"""Makes the transitions of an accepted job: each is a guarded change of its row and an event.

Each function is one guarded UPDATE (id, attempt, status, often stage and worker) and the event rows, in the caller's
open transaction; the caller commits. ``False`` or ``None`` means that the guard did not hold: another process owns
the job now, and the caller stops. Lease times are by the database's clock.

    accept.submit ─► pending ─send─► queued ─claim─► running ─advance─► pending (before train), queued (before
                        ▲              │ resend        │                evaluate, publish), completed (after publish)
                        └──────────────┴── release, expire (attempt + 1)
    hand_back: queued ─► pending (the worker takes no work)
    fail: running ─► failed
    finish_cancel: running ─► cancelled, once its process is gone
    requests.request_cancel, request_pause: pending, queued ─► cancelled, pending (paused) at once

A cancel that was requested takes precedence over the next transition out of ``running``: advance, release and expire
end such a job as cancelled. These three are therefore to be called when the stage's process is gone.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..champions import settle
from ..columns import DEVICE_S, faults_of
from ..database import now as clock
from ..events import record_event
from ..openai.model_ids import model_id
from ..queries import newest_step
from ..queue.history import record_run
from ..rows import Claim, lock_if, owned
from ..states import Reason, Ruling, Stage, Status, common_queue
from ..tables import Adapter, ChampionEvent, Job, JobRequest
from ..tables.types import JsonObject
from ..tenants import ledger
from ..tenants.audit import Actor, record_audit
from ..workers import reset_device_faults
from .lifecycle import (
    charge_stage,
    close_attempt,
    end,
    end_failed,
    open_attempt,
    progressed,
    return_to_front,
    start_next_attempt,
    take_back,
)
from .limits import pause_at_limit
from .progress import Columns, PublishedAdapter, StageValues, fill_columns
from .status import Cause, switch_status

CONTROL_QUEUE = "celora"
GATE = Actor("gate")
"""The actor of a promotion that no person made."""

Renewal = Literal["ok", "cancel", "pause", "lost"]


def send(
    session: Session,
    job_id: str,
    attempt: int,
    stage: str,
    *,
    queue: str,
    gpu_type: str | None = None,
    chosen: JsonObject | None = None,
    estimated: bool = False,
) -> int | None:
    """Set a pending job to queued, because its stage is being sent; return the number of the publication.

    ``chosen`` stays with the job where it asked for ``auto``: the type that it got, and why.

    With ``estimated`` a job that was prepared is sent once it holds the estimate of its receipt, and None is returned
    before. A scheduling round asks for that, since it may have compared the job with its limits before the receipt.
    """
    job = lock_if(
        session,
        job_id,
        Job.attempt == attempt,
        Job.stage == Stage(stage),
        Job.status == Status.PENDING,
        Job.cancel_requested.is_(False),
        Job.paused.is_(False),
        Job.limited.is_(None),
        *((ledger.estimated(),) if estimated else ()),
    )
    if job is None:
        return None
    job.wait_reason, job.not_before = "", None
    job.publication, job.sent_at, job.queue = job.publication + 1, job.updated_at, queue
    if job.stage.on_gpu:
        job.gpu_type, job.released_at = gpu_type, job.updated_at
    data: JsonObject = {"stage": stage, "queue": queue}
    if chosen is not None:
        job.chosen = data["chosen"] = chosen
    switch_status(session, job, Status.QUEUED, Cause("queued", f"{stage} sent to {queue}", data))
    return job.publication


def resend(session: Session, job_id: str, attempt: int, stage: str, publication: int) -> int | None:
    """Count another publication of a job that is still queued after the given one; return the number of the new one.

    The earlier message is presumed lost. One that arrives late does no harm, since one claim alone succeeds.
    """
    job = lock_if(
        session,
        job_id,
        Job.attempt == attempt,
        Job.stage == Stage(stage),
        Job.status == Status.QUEUED,
        Job.publication == publication,
    )
    if job is None:
        return None
    job.publication, job.sent_at, job.reason = publication + 1, job.updated_at, Reason.NOT_CLAIMED
    data: JsonObject = {"stage": stage, "publication": job.publication}
    record_event(session, job_id, attempt, "warning", "resent", f"{stage} was not claimed; sent again", data)
    return job.publication


def reroute(session: Session, job_id: str, attempt: int, stage: str, publication: int) -> int | None:
    """Count another publication of a job, to the common queue of its type; return the number of the new one.

    The worker with the job's base did not claim the earlier one in time. The job keeps its slot: that of the type.
    """
    job = lock_if(
        session,
        job_id,
        Job.attempt == attempt,
        Job.stage == Stage(stage),
        Job.status == Status.QUEUED,
        Job.publication == publication,
    )
    if job is None or job.queue is None:
        return None
    before, job.queue = job.queue, common_queue(job.queue)
    job.publication, job.sent_at = publication + 1, job.updated_at
    data: JsonObject = {"stage": stage, "queue": job.queue, "publication": job.publication}
    message = f"{stage} was not claimed from {before}; sent to {job.queue}"
    record_event(session, job_id, attempt, "info", "rerouted", message, data)
    return job.publication


def claim(
    session: Session,
    job_id: str,
    attempt: int,
    stage: str,
    *,
    worker_id: str,
    lease_s: float,
    gpu_type: str | None = None,
    queues: Sequence[str] = (),
) -> Job | None:
    """Set a queued job to running under a lease, and fix its resume point; one of several workers gets the row.

    A worker that names the queues it reads gets only jobs that were sent to one of them, so that a message that was
    forged into another queue starts nothing.
    """
    job = lock_if(
        session,
        job_id,
        *([Job.queue.in_(queues)] if queues else []),
        Job.attempt == attempt,
        Job.stage == Stage(stage),
        Job.status == Status.QUEUED,
        Job.cancel_requested.is_(False),
    )
    if job is None:
        return None
    at = job.updated_at
    waited_s = (at - job.sent_at).total_seconds() if job.sent_at else 0.0
    job.wait_reason, job.recovered = "", False
    job.worker_id, job.lease_until = worker_id, at + timedelta(seconds=lease_s)
    job.claimed_at, job.started_at = at, job.started_at or at
    job.gpu_type = gpu_type or job.gpu_type
    if job.stage is Stage.TRAIN:
        job.resume_step = newest_step(session, job)
        job.step, job.progress = job.resume_step or 0, None
    elif job.progress and DEVICE_S in job.progress:  # the share of the stage before
        job.progress = {name: value for name, value in job.progress.items() if name != DEVICE_S}
    open_attempt(session, job)
    data: JsonObject = {"stage": stage, "worker": worker_id, "gpu_type": job.gpu_type, "waited_s": round(waited_s, 3)}
    switch_status(session, job, Status.RUNNING, Cause("stage_started", f"{stage} started on {worker_id}", data))
    return job


def hand_back(session: Session, job_id: str, attempt: int, stage: str, why: str, *, queues: Sequence[str] = ()) -> bool:
    """Set a queued job to pending, because the worker that got the message takes no work now; no attempt is counted."""
    sent = [Job.queue.in_(queues)] if queues else []
    job = lock_if(
        session, job_id, Job.attempt == attempt, Job.stage == Stage(stage), Job.status == Status.QUEUED, *sent
    )
    if job is None:
        return False
    cause = Cause("handed_back", f"{stage} was handed back: {why}", {"stage": stage})
    return_to_front(session, job, Reason.PREEMPTED, cause)
    return True


def renew(session: Session, claim: Claim, lease_s: float) -> Renewal:
    """Prolong a lease, also one that ran out, as long as no other process took the job meanwhile.

    A job that has used up its budget, or its tenant's month, is to pause from now on.

    Returns:
        ``ok``; ``cancel`` or ``pause`` (prolonged, but the job is to end, or to stop); ``lost`` (the attempt is over or
        belongs to another worker).
    """
    job = lock_if(session, claim.job_id, *owned(claim))
    if job is None:
        return "lost"
    job.lease_until = job.updated_at + timedelta(seconds=lease_s)
    session.flush()
    if job.cancel_requested:
        return "cancel"
    pause_at_limit(session, job, claim, ahead_s=lease_s)
    return "pause" if job.pause_requested or job.preempt_requested else "ok"


def request_preemption(session: Session, job_id: str, for_job: str) -> bool:
    """Request that a training job writes a checkpoint and waits, so that an urgent one gets its slot.

    Its worker reads the request at the next renewal of the lease, and returns the job as at a drain; no attempt counts.

    Args:
        session: An open session.
        job_id: The job that gives its slot.
        for_job: The urgent job.

    Returns:
        False if the job does not train any more, or stops for another reason.
    """
    stops = (Job.cancel_requested.is_(False), Job.pause_requested.is_(False), Job.preempt_requested.is_(False))
    job = lock_if(session, job_id, Job.status == Status.RUNNING, Job.stage == Stage.TRAIN, *stops)
    if job is None:
        return False
    job.preempt_requested = True
    message = "an urgent job takes its slot; it writes a checkpoint and waits"
    record_event(session, job_id, job.attempt, "info", "preempt_requested", message, {"for_job": for_job})
    session.flush()
    return True


def advance(
    session: Session, claim: Claim, stage: str, values: Columns | StageValues, *, following_queue: str | None = None
) -> bool:
    """Close a stage that succeeded and move the job on to the next stage, or to its end.

    After ``prepare`` the job is pending, after ``train`` and ``evaluate`` it is queued, since its chain of messages
    continues by itself, and after ``publish`` it is completed.

    Args:
        session: An open session.
        claim: The claim of the stage's worker; its price is charged for a stage on a GPU.
        stage: The stage that succeeded.
        values: The stage's results. An ``adapter`` becomes the job's row in the table of adapters; a ``challenge`` is
            the decision about a champion (``champions.settle``).
        following_queue: The queue that the next stage's message goes to; None for that of this stage.

    Returns:
        True if the job moved on. False: the attempt belongs to another worker, or a cancel was requested and the job
        is cancelled.
    """
    job = lock_if(session, claim.job_id, *owned(claim), Job.stage == Stage(stage))
    if job is None:
        return False
    if job.cancel_requested:
        end(session, job, Status.CANCELLED, price_per_hour=claim.price_per_hour)
        return False
    fill_columns(job, values)
    seconds = charge_stage(session, job, claim.price_per_hour)
    job.stale_attempts = 0
    finished = Cause("stage_finished", f"{stage} finished in {seconds:.1f} s", {"stage": stage, "seconds": seconds})
    if job.stage.following is None:
        _complete(session, job, values, finished)
    else:
        if job.stage.on_gpu:
            reset_device_faults(session, claim.worker_id)
        _enter(session, job, job.stage.following, finished, following_queue)
    session.flush()
    return True


def _complete(session: Session, job: Job, values: Columns | StageValues, finished: Cause) -> None:
    """Publish the adapter, settle the challenge of a champion, and end the job, in this order of events."""
    record_event(session, job.id, job.attempt, finished.level, finished.kind, finished.message, finished.data)
    if "adapter" in values:
        _publish(session, job, values["adapter"])
    if "challenge" in values:
        session.flush()
        _audit_promotion(session, job, settle(session, job, values["challenge"]))
    record_run(session, job)
    end(session, job, Status.COMPLETED)


def _audit_promotion(session: Session, job: Job, promoted: ChampionEvent | None) -> None:
    """Record a promotion that the gate decided, and no person."""
    if promoted is not None:
        before = None if promoted.before is None else {"job": promoted.before}
        after = {"job": job.id, "version": promoted.version, "reason": promoted.reason}
        record_audit(session, GATE, "champion.promoted", promoted.name, before, after, tenant=job.tenant)


def _enter(session: Session, job: Job, stage: Stage, finished: Cause, queue: str | None) -> None:
    """Move a job to its next stage: pending before ``train``, else queued; or paused, if that was requested."""
    job.stage, job.preempt_requested = stage, False
    if job.pause_requested:
        record_event(session, job.id, job.attempt, finished.level, finished.kind, finished.message, finished.data)
        paused = Cause("paused", f"paused before {stage}", {"stage": stage.value})
        return_to_front(session, job, Reason.PAUSED, paused)
        return
    if stage is Stage.TRAIN:
        ledger.ask(session, job)  # the receipt of prepare is a better estimate
    switch_status(session, job, Status.PENDING if stage is Stage.TRAIN else Status.QUEUED, finished)
    if job.status is Status.QUEUED:
        job.sent_at = job.updated_at
        job.queue = (queue or job.queue) if stage.on_gpu else CONTROL_QUEUE


def _publish(session: Session, job: Job, adapter: PublishedAdapter) -> None:
    job.adapter_uri, job.name = adapter["uri"], adapter["name"]
    asked = session.get(JobRequest, job.id)
    named = asked.named if asked is not None else adapter["base_name"]
    known_as = model_id(named, job.tenant, str(job.spec.get("suffix") or ""), job.id)
    session.merge(Adapter(id=job.id, tenant=job.tenant, created_at=job.updated_at, model_id=known_as, **adapter))


def fail(session: Session, claim: Claim, error: JsonObject) -> bool:
    """End a running job with an error: code, message, hint, stage, log_tail."""
    job = lock_if(session, claim.job_id, *owned(claim))
    if job is None:
        return False
    end_failed(session, job, error, claim.price_per_hour)
    return True


def release(session: Session, claim: Claim, reason: Reason, *, resume_step: int | None = None) -> bool:
    """Return a running job that was drained, preempted or paused to pending; the attempt does not count.

    Args:
        session: An open session.
        claim: The claim that ends.
        reason: The reason that the row shows; a pause that was requested takes its place.
        resume_step: The last committed step.
    """
    job = lock_if(session, claim.job_id, *owned(claim))
    if job is None:
        return False
    if job.cancel_requested:
        end(session, job, Status.CANCELLED, price_per_hour=claim.price_per_hour)
        return True
    data = _released(session, job, claim, reason, resume_step)
    close_attempt(session, job, "released")
    why = data["reason"]
    start_next_attempt(session, job, reason, Cause("released", f"{job.stage} given back: {why}", data))
    session.flush()
    return True


def try_again(session: Session, claim: Claim, error: JsonObject, ruling: Ruling) -> bool:
    """Return a running job whose attempt failed to pending, for the next attempt, as its ruling says.

    The attempt counts against the job's limit of attempts, unless it committed a checkpoint beyond its resume point, or
    the job did not cause the failure (``ruling.paid`` is False).
    """
    job = lock_if(session, claim.job_id, *owned(claim))
    if job is None:
        return False
    if job.cancel_requested:
        end(session, job, Status.CANCELLED, price_per_hour=claim.price_per_hour)
        return True
    data = {**_released(session, job, claim, ruling.reason, None), "error": error}
    _count_fault(session, job, error, paid=ruling.paid)
    message = f"{job.stage} failed and is tried again: {error.get('message', '')}"
    close_attempt(session, job, "failed", error)
    cause = Cause("retrying", message, data, "warning")
    start_next_attempt(session, job, ruling.reason, cause, wait_s=ruling.wait_s)
    if ruling.adjusted is not None:
        job.adjusted = ruling.adjusted.model_dump()
    job.least_memory_bytes = ruling.least_memory_bytes or job.least_memory_bytes
    session.flush()
    return True


def _released(session: Session, job: Job, claim: Claim, reason: Reason, resume_step: int | None) -> JsonObject:
    """Charge the stage that ends early; return the data of its event."""
    seconds = charge_stage(session, job, claim.price_per_hour)
    if resume_step is not None and job.stage is Stage.TRAIN:  # other stages have no steps of their own
        job.step = resume_step
    why = Reason.PAUSED if job.pause_requested else reason
    return {"stage": job.stage.value, "seconds": seconds, "reason": why.value, "resume_step": resume_step}


def _count_fault(session: Session, job: Job, error: JsonObject, *, paid: bool) -> None:
    code, faults = str(error.get("code", "internal")), faults_of(job)
    job.faults = {**faults, code: faults.get(code, 0) + 1}
    if paid:
        job.stale_attempts = 0 if progressed(session, job) else job.stale_attempts + 1


def expire(
    session: Session, now: datetime | None, max_attempts: int, *, prices: Mapping[str, float] | None = None
) -> list[Job]:
    """Take running jobs whose lease ran out from their workers; the reaper calls this.

    Each goes back to pending with the next attempt, or fails after ``max_attempts`` attempts without progress. A
    checkpoint beyond the attempt's resume point is progress. GPU time counts to the end of the lease.

    Args:
        session: An open session.
        now: The database's clock; None reads it.
        max_attempts: Attempts without progress until a job fails.
        prices: US dollars an hour by GPU type.

    Returns:
        The rows that were taken.
    """
    at = now or clock(session)
    late = (Job.status == Status.RUNNING, Job.lease_until < at)
    taken: list[Job] = []
    for job_id, attempt in session.execute(select(Job.id, Job.attempt).where(*late).order_by(Job.id)).all():
        job = lock_if(session, job_id, Job.attempt == attempt, *late)
        if job is not None:
            take_back(session, job, max_attempts, prices.get(job.gpu_type or "", 0.0) if prices else 0.0)
            taken.append(job)
    return taken


def finish_cancel(session: Session, claim: Claim) -> bool:
    """Set a running job to cancelled; to be called when its process is gone and its memory is free."""
    job = lock_if(session, claim.job_id, *owned(claim))
    if job is None:
        return False
    job.cancel_requested = True
    end(session, job, Status.CANCELLED, price_per_hour=claim.price_per_hour)
    return True
