"""Reads of the record, as plain dicts for people and programs; nothing here changes anything.

Times are timezone-aware datetimes. Where a tenant is given, it is a condition of the query itself. A job may be named
by the beginning of its id, as long as that is nobody else's.
"""

import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from sqlalchemy import func, or_, select, tuple_
from sqlalchemy.orm import Session, defer

from ..settings.errors import NotFoundError
from . import datasets, ratings
from .database import now
from .journal import FURTHEST, ancestors
from .registry import obstacle
from .states import Stage, Status
from .tables import Adapter, Announcement, Checkpoint, Event, Job, MetricPoint, Table, Worker

LIST = "`celora list` shows what there is."
ACTIVE = (Status.QUEUED, Status.RUNNING)
CONTROL_QUEUE, PREP_QUEUE, GPU_QUEUES = "celora", "prep", "gpu."

_COPIED = (
    "id", "status", "stage", "reason", "wait_reason", "cancel_requested", "tenant", "user", "name", "gpu", "gpu_type",
    "queue", "priority", "attempt", "stale_attempts", "step", "steps", "resume_step", "created_at", "sent_at",
    "started_at", "released_at", "finished_at", "dataset_sha256", "memory_bytes", "metrics", "warnings", "error",
    "log_uri", "gpu_seconds", "cost", "paused", "pause_requested", "faults", "adjusted", "retry_of", "resume_of",
    "train_s",
)  # fmt: skip


def find(session: Session, job_id: str, tenant: str | None = None) -> Job:
    """The job of that id, or the one whose id begins so.

    Raises:
        NotFoundError: There is none, or more than one.
    """
    mine = () if tenant is None else (Job.tenant == tenant,)
    exact = session.scalars(select(Job).where(Job.id == job_id, *mine)).one_or_none()
    if exact is not None:
        return exact
    alike = select(Job).where(Job.id.startswith(job_id, autoescape=True), *mine).order_by(Job.id).limit(4)
    found = [job for job in session.scalars(alike) if job_id and job.id.startswith(job_id)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(job.id for job in found[:3]) + (" and more" if len(found) > 3 else "")  # noqa: PLR2004  (three are shown)
        raise NotFoundError(f"{job_id} is the beginning of more than one job: {names}.", hint="Give more of the id.")
    count = session.scalar(select(func.count()).select_from(Job).where(*mine)) or 0
    raise NotFoundError(f"there is no job {job_id} among the {count} in the record.", hint=LIST)


def job_summary(session: Session, job_id: str, tenant: str | None = None) -> dict[str, Any]:
    """Everything that people and programs ask about one job.

    Beside the row's own columns: ``base_model``, ``adapter`` (URI), ``worker``, ``phase``, ``loss``, ``tokens_per_s``,
    ``eta_s``, ``progress``, ``trainable_parameters``, ``trainable_share``, ``stage_seconds`` (summed over attempts),
    ``datasets`` (name, version and sha256 of what it saw, by role), ``prepared`` (whether its data is there still),
    ``checkpoint_step`` (the furthest that it or a retry of it may go on from), ``preference`` (people's, by rival),
    ``evaluation`` and ``summary``.

    Raises:
        NotFoundError: There is no such job, or the beginning of an id fits several.
    """
    job = find(session, job_id, tenant)
    rows = session.scalars(select(Event).where(Event.job_id == job.id).order_by(Event.id))
    happened = [(event.kind, event.data or {}) for event in rows]
    trained: dict[str, Any] = {}
    for kind, data in happened:
        trained |= data if kind == "training_started" else {}
    trained |= job.result or {}
    return {
        **_shown(job),
        "stage_seconds": _stage_seconds(data for _, data in happened),
        "trainable_parameters": trained.get("trainable_parameters"),
        "trainable_share": _share(trained),
        "datasets": datasets.seen_by(session, job.id),
        "prepared": job.prepared_uri is not None,
        "checkpoint_step": furthest(session, job),
        "preference": ratings.of_job(session, job.tenant, job.id),
        "evaluation": job.evaluation,
        "summary": job.summary,
    }


def list_jobs(
    session: Session,
    *,
    tenant: str | None = None,
    status: str | None = None,
    limit: int = 50,
    after: str | None = None,
) -> list[dict[str, Any]]:
    """Jobs, the newest first; ``after`` is the id of the last job of the page before."""
    wanted = select(Job).order_by(Job.created_at.desc(), Job.id.desc()).limit(limit)
    wanted = wanted.options(defer(Job.evaluation), defer(Job.summary), defer(Job.prepared), defer(Job.request))
    if tenant is not None:
        wanted = wanted.where(Job.tenant == tenant)
    if status is not None:
        wanted = wanted.where(Job.status == Status(status))
    if after is not None:
        last = find(session, after, tenant)
        wanted = wanted.where(tuple_(Job.created_at, Job.id) < tuple_(last.created_at, last.id))
    return [_shown(job) for job in session.scalars(wanted)]


def events(session: Session, job_id: str, after_id: int = 0, tenant: str | None = None) -> list[dict[str, Any]]:
    """What happened to a job after the event of that id, in order."""
    job = find(session, job_id, tenant)
    rows = select(Event).where(Event.job_id == job.id, Event.id > after_id).order_by(Event.id)
    return [_columns(row) for row in session.scalars(rows)]


def metric_points(session: Session, job_id: str, tenant: str | None = None) -> list[dict[str, Any]]:
    """What was measured, in order of step; of a step that two attempts did, the later one's."""
    job = find(session, job_id, tenant)
    rows = select(MetricPoint).where(MetricPoint.job_id == job.id).order_by(MetricPoint.step, MetricPoint.attempt)
    by_step = {row.step: _columns(row) for row in session.scalars(rows)}
    return list(by_step.values())


def adapters(session: Session, *, tenant: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
    """Published adapters, the newest first."""
    wanted = select(Adapter).order_by(Adapter.created_at.desc(), Adapter.id.desc()).limit(limit)
    if tenant is not None:
        wanted = wanted.where(Adapter.tenant == tenant)
    return [_columns(row) for row in session.scalars(wanted)]


def workers(session: Session, foreign_limit_bytes: int = sys.maxsize) -> list[dict[str, Any]]:
    """Every registered worker; ``jobs`` are the ids of what it runs, ``obstacle`` why it takes no work, in words."""
    running: dict[str, list[str]] = {}
    pairs = select(Job.worker_id, Job.id).where(Job.status == Status.RUNNING).order_by(Job.id)
    for worker_id, job_id in session.execute(pairs):
        running.setdefault(str(worker_id), []).append(job_id)
    rows = session.scalars(select(Worker).order_by(Worker.id))
    return [
        {**_columns(row), "jobs": running.get(row.id, []), "obstacle": obstacle(row, foreign_limit_bytes)}
        for row in rows
    ]


def queues(session: Session) -> list[dict[str, Any]]:
    """Each queue: ``waiting`` (pending jobs that will go there, and queued ones), ``running``, ``slots``, ``free``.

    A pending job that takes any GPU type counts under ``gpu.auto``, or under the one type that is online.
    """
    online = list(session.scalars(select(Worker).where(Worker.status == "online")))
    slots: dict[str, int] = {}
    for worker in online:
        for name in worker.queues:
            slots[name] = slots.get(name, 0) + worker.slots
    gpu_queues = [name for name in slots if name.startswith(GPU_QUEUES)]
    auto = gpu_queues[0] if len(gpu_queues) == 1 else GPU_QUEUES + "auto"
    waiting, taken, running = dict.fromkeys(slots, 0), dict.fromkeys(slots, 0), dict.fromkeys(slots, 0)
    unfinished = select(Job.status, Job.stage, Job.gpu, Job.queue).where(Job.status.in_((Status.PENDING, *ACTIVE)))
    for status, stage, gpu, queue in session.execute(unfinished):
        name = queue if status in ACTIVE and queue else queue_to_be(stage, gpu, auto)
        counted = running if status is Status.RUNNING else waiting
        counted[name] = counted.get(name, 0) + 1
        taken[name] = taken.get(name, 0) + (status in ACTIVE)
    return [
        {
            "queue": name,
            "waiting": waiting.get(name, 0),
            "running": running.get(name, 0),
            "slots": slots.get(name, 0),
            "free": max(0, slots.get(name, 0) - taken.get(name, 0)),
        }
        for name in sorted({*slots, *waiting, *running})
    ]


def resume_candidates(session: Session, job_id: str) -> list[Checkpoint]:
    """The checkpoints that the present attempt may go on from, the furthest first.

    They are those of earlier attempts, and those of the jobs that this one is a retry of.
    """
    job = session.get(Job, job_id)
    if job is None:
        return []
    mine = (Checkpoint.job_id == job_id) & (Checkpoint.attempt < job.attempt)
    usable = or_(mine, Checkpoint.job_id.in_(ancestors(session, job)))
    return list(session.scalars(select(Checkpoint).where(usable).order_by(*FURTHEST)))


def furthest(session: Session, job: Job) -> int | None:
    """The furthest checkpoint of a job and of those it goes on from."""
    usable = Checkpoint.job_id.in_([job.id, *ancestors(session, job)])
    return session.scalar(select(func.max(Checkpoint.step)).where(usable))


def undelivered(session: Session, claim_s: float) -> list[Job]:
    """Jobs whose message was sent that long ago and never claimed, the oldest first."""
    late = (Job.status == Status.QUEUED, Job.sent_at < now(session) - timedelta(seconds=claim_s))
    return list(session.scalars(select(Job).where(*late).order_by(Job.sent_at)))


def unannounced(session: Session) -> list[str]:
    """Ids of ended jobs whose callers were not told yet, and which nobody is telling now; the oldest first."""
    free = or_(Announcement.claimed_until.is_(None), Announcement.claimed_until < now(session))
    owed = select(Announcement.job_id).where(Announcement.announced_at.is_(None), free)
    return list(session.scalars(owed.order_by(Announcement.created_at)))


def _shown(job: Job) -> dict[str, Any]:
    progress, result = job.progress or {}, job.result or {}
    running = job.status is Status.RUNNING
    return {
        **{name: getattr(job, name) for name in _COPIED},
        "status": job.status.value,
        "stage": job.stage.value,
        "reason": job.reason.value,
        "base_model": job.spec.get("base_model"),
        "worker": job.worker_id,
        "adapter": job.adapter_uri,
        "progress": job.progress,
        "phase": progress.get("phase") if running else None,
        "loss": progress.get("loss", result.get("train_loss")),
        "tokens_per_s": progress.get("tokens_per_s") if running else None,
        "eta_s": progress.get("eta_s") if running else None,
    }


def _columns(row: Table) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in row.__mapper__.column_attrs}


def _stage_seconds(data: Iterable[dict[str, Any]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for facts in data:
        if "stage" in facts and "seconds" in facts:
            total[facts["stage"]] = round(total.get(facts["stage"], 0.0) + facts["seconds"], 3)
    return {stage.value: total[stage.value] for stage in Stage if stage.value in total}


def _share(trained: dict[str, Any]) -> float | None:
    trainable, every = trained.get("trainable_parameters"), trained.get("total_parameters")
    return trainable / every if trainable is not None and every else None


def queue_to_be(stage: Stage, gpu: str, auto: str) -> str:
    """The queue that a pending job will go to; ``auto`` stands for the GPU type that is not chosen yet."""
    if stage.on_gpu:
        return auto if gpu == "auto" else GPU_QUEUES + gpu
    return PREP_QUEUE if stage is Stage.PREPARE else CONTROL_QUEUE
