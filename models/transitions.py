"""The one place where a job's status changes.

Each function is one guarded UPDATE (id, attempt, status, often stage and worker) and the event rows, in the caller's
open transaction; the caller commits. ``False`` or ``None`` means that the guard did not hold: somebody else owns the
job now, and the caller stops. Lease times are by the database's clock.

    submit ─► pending ─send─► queued ─claim─► running ─advance─► pending (before train), queued (before evaluate,
                 ▲              │ resend        │                 publish), completed (after publish)
                 └──────────────┴── release, expire (attempt + 1)
    hand_back: queued ─► pending (the worker takes no work); request_pause: pending, queued ─► paused at once
    request_cancel: pending, queued ─► cancelled at once; running ─► cancelled when its process is gone
    fail: pending, queued, running ─► failed

A cancel that was asked for wins over whatever would leave ``running`` next: advance, release and expire end such a job
as cancelled. They are therefore to be called when the stage's process is gone.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .attempts import (
    again,
    charge,
    close_attempt,
    end,
    end_failed,
    let_go,
    open_attempt,
    progressed,
    take_back,
    to_front,
)
from .champions import settle
from .database import now as clock
from .intents import request_cancel, request_pause, resume, retry
from .journal import (
    apply,
    checkpoint,
    evaluated_again,
    event,
    explain_waits,
    inserter,
    measured_as_served,
    metric_points,
    newest_step,
    owned,
    progress,
    take,
)
from .outbox import announce, announce_claim, announce_done
from .registry import (
    ask_drain,
    cordon,
    device_fault,
    drain,
    fine,
    gone,
    register,
    register_dataset,
    seen,
    silence,
    uncordon,
)
from .spec import JobSpec
from .states import Reason, Stage, Status
from .tables import Adapter, Job, Tenant

__all__ = [
    "advance",
    "announce_claim",
    "announce_done",
    "ask_drain",
    "cancelled",
    "checkpoint",
    "claim",
    "cordon",
    "device_fault",
    "drain",
    "evaluated_again",
    "event",
    "expire",
    "explain_waits",
    "fail",
    "fine",
    "gone",
    "hand_back",
    "held",
    "measured_as_served",
    "metric_points",
    "progress",
    "register",
    "register_dataset",
    "reject",
    "release",
    "renew",
    "request_cancel",
    "request_pause",
    "resend",
    "resume",
    "retry",
    "seen",
    "send",
    "silence",
    "submit",
    "uncordon",
]  # fmt: skip

CONTROL_QUEUE = "celora"

_FRESH: dict[str, Any] = {"stage": Stage.PREPARE, "warnings": []}


def submit(
    session: Session,
    *,
    job_id: str,
    spec: JobSpec,
    tenant: str | None = None,
    request: dict[str, Any] | None = None,
) -> tuple[Job, bool]:
    """Write a job down; an id that is known returns its row, and takes the request if it had none.

    A seed that was left open is derived from the id, so that it stands in the record.

    Returns:
        The row, and whether it is new.
    """
    seed = spec.seed if spec.seed is not None else _seed(job_id)
    fields = spec.model_dump(mode="json") | {"seed": seed, "tenant": tenant or spec.tenant}
    return _create(
        session,
        {
            "id": job_id,
            "tenant": tenant or spec.tenant,
            "user": spec.user,
            "gpu": spec.gpu,
            "priority": spec.priority,
            "spec": fields,
            "status": Status.PENDING,
            "request": request,
        },
        ("info", "submitted", f"submitted by {spec.user or 'nobody named'}"),
    )


def reject(
    session: Session,
    job_id: str,
    fields: dict[str, Any],
    error: dict[str, Any],
    request: dict[str, Any] | None = None,
) -> Job:
    """Write down a job whose spec is wrong: a failed row, so that its id answers. A known id stays as it is.

    Only a request that is given is owed an announcement; without one the caller was told already (a native failure).
    """
    tenant = fields.get("tenant")
    values = {
        "id": job_id,
        "tenant": tenant if isinstance(tenant, str) and 0 < len(tenant) <= 64 and tenant.isprintable() else "default",  # noqa: PLR2004  (the column's width)
        "user": str(fields.get("user", ""))[:200],
        "gpu": str(fields.get("gpu", "auto"))[:32],
        "spec": fields,
        "status": Status.FAILED,
        "error": error,
        "request": request,
    }
    job, created = _create(session, values, ("error", "rejected", str(error.get("message", ""))))
    if created:
        job.finished_at = job.created_at
        if request is not None:
            announce(session, job_id)
        session.flush()
    return job


def send(
    session: Session, job_id: str, attempt: int, stage: str, *, queue: str, gpu_type: str | None = None
) -> int | None:
    """Pending to queued: the stage is being sent. Returns its publication number."""
    job = take(
        session,
        job_id,
        Job.attempt == attempt,
        Job.stage == Stage(stage),
        Job.status == Status.PENDING,
        Job.cancel_requested.is_(False),
        Job.paused.is_(False),
    )
    if job is None:
        return None
    job.status, job.reason, job.wait_reason, job.not_before = Status.QUEUED, Reason.NONE, "", None
    job.publication, job.sent_at, job.queue = job.publication + 1, job.updated_at, queue
    if job.stage.on_gpu:
        job.gpu_type, job.released_at = gpu_type, job.updated_at
    event(session, job_id, attempt, "info", "queued", f"{stage} sent to {queue}", {"stage": stage, "queue": queue})
    return job.publication


def resend(session: Session, job_id: str, attempt: int, stage: str, publication: int) -> int | None:
    """Still queued after that publication: count another one. Its message is presumed lost; a late one does no harm."""
    job = take(
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
    data = {"stage": stage, "publication": job.publication}
    event(session, job_id, attempt, "warning", "resent", f"{stage} was not claimed; sent again", data)
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
) -> Job | None:
    """Queued to running: of all who try, one gets the row and its lease. The resume point is fixed here."""
    job = take(
        session,
        job_id,
        Job.attempt == attempt,
        Job.stage == Stage(stage),
        Job.status == Status.QUEUED,
        Job.cancel_requested.is_(False),
    )
    if job is None:
        return None
    at = job.updated_at
    waited_s = (at - job.sent_at).total_seconds() if job.sent_at else 0.0
    job.status, job.reason, job.wait_reason, job.recovered = Status.RUNNING, Reason.NONE, "", False
    job.worker_id, job.lease_until = worker_id, at + timedelta(seconds=lease_s)
    job.claimed_at, job.started_at = at, job.started_at or at
    job.gpu_type = gpu_type or job.gpu_type
    if job.stage is Stage.TRAIN:
        job.resume_step = newest_step(session, job)
        job.step, job.progress = job.resume_step or 0, None
    open_attempt(session, job)
    data = {"stage": stage, "worker": worker_id, "gpu_type": job.gpu_type, "waited_s": round(waited_s, 3)}
    event(session, job_id, attempt, "info", "stage_started", f"{stage} started on {worker_id}", data)
    return job


def held(session: Session, job_id: str, attempt: int, worker_id: str) -> Job | None:
    """The row of a job that this worker carries, held until the commit; None if it is another's by now."""
    return take(session, job_id, *owned(attempt, worker_id))


def hand_back(session: Session, job_id: str, attempt: int, stage: str, why: str) -> bool:
    """Queued to pending again: the worker that got the message takes no work now. Costs no attempt."""
    job = take(session, job_id, Job.attempt == attempt, Job.stage == Stage(stage), Job.status == Status.QUEUED)
    if job is None:
        return False
    to_front(job, Reason.PREEMPTED)
    event(session, job_id, attempt, "info", "handed_back", f"{stage} was handed back: {why}", {"stage": stage})
    return True


def renew(session: Session, job_id: str, attempt: int, worker_id: str, lease_s: float) -> str:
    """Prolong a lease, also one that ran out, as long as nobody took the job meanwhile.

    Returns:
        ``ok``; ``cancel`` or ``pause`` (prolonged, but the job is to end, or to stop); ``lost`` (the attempt is
        another's or over).
    """
    job = take(session, job_id, *owned(attempt, worker_id))
    if job is None:
        return "lost"
    job.lease_until = job.updated_at + timedelta(seconds=lease_s)
    session.flush()
    if job.cancel_requested:
        return "cancel"
    return "pause" if job.pause_requested else "ok"


def advance(
    session: Session,
    job_id: str,
    attempt: int,
    stage: str,
    *,
    worker_id: str,
    values: dict[str, Any],
    price_per_hour: float = 0.0,
    queue: str | None = None,
) -> bool:
    """Close a stage that succeeded and move on: prepare to pending, train and evaluate to queued, publish to completed.

    Args:
        session: An open session.
        job_id: The job.
        attempt: The attempt that ran the stage.
        stage: The stage that succeeded.
        worker_id: Its worker.
        values: The stage's results, by column (``journal.COLUMNS``). Publish may bring ``adapter``: name, uri,
            base_name, base_revision, rank, metrics, size_bytes; it becomes the job's row in the table of adapters.
            And ``challenge``: what a champion's gate said (champions.settle).
        price_per_hour: What an hour of the GPU costs; only GPU stages are charged.
        queue: Where the next stage was sent, if not to the same queue (publish: the control queue).

    Returns:
        True if the job moved on. False: the attempt is another's, or a cancel was asked for and the job is cancelled.
    """
    job = take(session, job_id, *owned(attempt, worker_id), Job.stage == Stage(stage))
    if job is None:
        return False
    if job.cancel_requested:
        end(session, job, Status.CANCELLED, price_per_hour=price_per_hour)
        return False
    values = dict(values)
    adapter, challenge = values.pop("adapter", None), values.pop("challenge", None)
    apply(job, values)
    seconds = charge(job, price_per_hour)
    job.stale_attempts = 0
    message = f"{stage} finished in {seconds:.1f} s"
    event(session, job_id, attempt, "info", "stage_finished", message, {"stage": stage, "seconds": seconds})
    following = job.stage.following
    if following is None:
        if adapter is not None:
            _publish(session, job, adapter)
        if challenge is not None:
            session.flush()
            settle(session, job, challenge)
        end(session, job, Status.COMPLETED)
        return True
    if job.stage.on_gpu:
        fine(session, worker_id)
    job.stage = following
    if job.pause_requested:
        to_front(job, Reason.PAUSED)
        event(session, job_id, attempt, "info", "paused", f"paused before {following}", {"stage": following.value})
        return True
    let_go(job, Status.PENDING if following is Stage.TRAIN else Status.QUEUED)
    if job.status is Status.QUEUED:
        job.sent_at = job.updated_at
        job.queue = queue or (job.queue if following.on_gpu else CONTROL_QUEUE)
    session.flush()
    return True


def fail(
    session: Session,
    job_id: str,
    attempt: int,
    *,
    worker_id: str | None,
    error: dict[str, Any],
    price_per_hour: float = 0.0,
) -> bool:
    """End a job with an error: a running one by its worker, a waiting one, with ``worker_id=None``, by the control."""
    guard = (
        owned(attempt, worker_id)
        if worker_id is not None
        else (Job.attempt == attempt, Job.status.in_((Status.PENDING, Status.QUEUED)))
    )
    job = take(session, job_id, *guard)
    if job is None:
        return False
    end_failed(session, job, error, price_per_hour)
    return True


def release(
    session: Session,
    job_id: str,
    attempt: int,
    *,
    worker_id: str,
    reason: Reason | str,
    resume_step: int | None = None,
    error: dict[str, Any] | None = None,
    paid: bool = True,
    wait_s: float = 0.0,
    adjusted: dict[str, Any] | None = None,
    least_memory_bytes: int | None = None,
    price_per_hour: float = 0.0,
) -> bool:
    """Give a running job back: pending, front of the queue.

    Without an error (drained, preempted, paused) no attempt is paid; with one (it is tried again) the attempt counts,
    unless it committed a checkpoint beyond its resume point, or the failure was not the job's (``paid=False``).

    Args:
        session: An open session.
        job_id: The job.
        attempt: The attempt that ends.
        worker_id: Its worker.
        reason: Why it goes back.
        resume_step: The last committed step.
        error: What went wrong: code, message and more.
        paid: Whether an error counts against the job's attempts.
        wait_s: Seconds until it may be tried again.
        adjusted: What the next attempt has to keep to (recipe.Adjusted).
        least_memory_bytes: What the next device must have.
        price_per_hour: What an hour of the GPU costs.
    """
    job = take(session, job_id, *owned(attempt, worker_id))
    if job is None:
        return False
    if job.cancel_requested:
        end(session, job, Status.CANCELLED, price_per_hour=price_per_hour)
        return True
    seconds = charge(job, price_per_hour)
    why = Reason.PAUSED if job.pause_requested else Reason(reason)
    data = {"stage": job.stage.value, "seconds": seconds, "reason": why.value, "resume_step": resume_step}
    if error is None:
        event(session, job_id, attempt, "info", "released", f"{job.stage} given back: {why}", data)
    else:
        _count_fault(session, job, error, paid=paid)
        message = f"{job.stage} failed and is tried again: {error.get('message', '')}"
        event(session, job_id, attempt, "warning", "retrying", message, {**data, "error": error})
    if resume_step is not None:
        job.step = resume_step
    close_attempt(session, job, "released" if error is None else "failed", error)
    again(job, why)
    job.not_before = job.updated_at + timedelta(seconds=wait_s) if wait_s else None
    job.adjusted = adjusted or job.adjusted
    job.least_memory_bytes = least_memory_bytes or job.least_memory_bytes
    session.flush()
    return True


def _count_fault(session: Session, job: Job, error: Mapping[str, Any], *, paid: bool) -> None:
    code = str(error.get("code", "internal"))
    job.faults = {**(job.faults or {}), code: (job.faults or {}).get(code, 0) + 1}
    if paid:
        job.stale_attempts = 0 if progressed(session, job) else job.stale_attempts + 1


def expire(
    session: Session, now: datetime | None, max_attempts: int, *, prices: Mapping[str, float] | None = None
) -> list[Job]:
    """The reaper: take running jobs whose lease ran out from their workers.

    Each goes back to pending with the next attempt, or fails after ``max_attempts`` attempts without progress. A
    checkpoint beyond the attempt's resume point is progress. GPU time counts to the end of the lease.

    Args:
        session: An open session.
        now: The database's clock; None reads it.
        max_attempts: Attempts without progress until a job fails.
        prices: Dollars an hour by GPU type.

    Returns:
        The rows that were taken.
    """
    at = now or clock(session)
    late = (Job.status == Status.RUNNING, Job.lease_until < at)
    taken: list[Job] = []
    for job_id, attempt in session.execute(select(Job.id, Job.attempt).where(*late).order_by(Job.id)).all():
        job = take(session, job_id, Job.attempt == attempt, *late)
        if job is not None:
            take_back(session, job, max_attempts, (prices or {}).get(job.gpu_type or "", 0.0))
            taken.append(job)
    return taken


def cancelled(session: Session, job_id: str, attempt: int, worker_id: str, *, price_per_hour: float = 0.0) -> bool:
    """Running to cancelled; to be called when the process is gone and its memory is free."""
    job = take(session, job_id, *owned(attempt, worker_id))
    if job is None:
        return False
    job.cancel_requested = True
    end(session, job, Status.CANCELLED, price_per_hour=price_per_hour)
    return True


def _create(session: Session, values: dict[str, Any], first: tuple[str, str, str]) -> tuple[Job, bool]:
    at = clock(session)
    insert = inserter(session)
    session.execute(
        insert(Tenant).values(name=values["tenant"], created_at=at).on_conflict_do_nothing(index_elements=["name"])
    )
    row = {**_FRESH, "created_at": at, "updated_at": at, **values}
    new = session.scalar(insert(Job).values(**row).on_conflict_do_nothing(index_elements=["id"]).returning(Job.id))
    job = session.get_one(Job, values["id"], populate_existing=True)
    if new is not None:
        event(session, job.id, job.attempt, *first)
    elif values["request"] is not None:
        job = _attach(session, job, values["request"])
    return job, new is not None


def _attach(session: Session, job: Job, request: dict[str, Any]) -> Job:
    """Give a row the caller's request if it has none; an end that was announced to nobody is announced again."""
    taken = take(session, job.id, Job.request.is_(None))
    if taken is None:
        return job
    taken.request = request
    if taken.status.final:
        announce(session, taken.id)
    session.flush()
    return taken


def _publish(session: Session, job: Job, adapter: dict[str, Any]) -> None:
    job.adapter_uri, job.name = adapter["uri"], adapter["name"]
    session.merge(Adapter(id=job.id, tenant=job.tenant, created_at=job.updated_at, **adapter))


def _seed(job_id: str) -> int:
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:4], "big") >> 1
