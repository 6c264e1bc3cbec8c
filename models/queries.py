"""Reads the record for people and programs; no function here changes a row.

Times are timezone-aware datetimes. Where a tenant is given, it is a condition of the query itself. Programs name a job
by its whole id; ``find`` completes the beginning of an id for commands.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cache

from sqlalchemy import Integer, Select, String, and_, bindparam, func, or_, select, tuple_
from sqlalchemy.orm import Session, defer

from ..errors import NotFoundError
from . import ratings
from .columns import JobError, training_facts
from .database import now
from .queue.estimates import estimate_view
from .queue.lane_reasons import wait_sentences
from .queue.waiting import count_by_queue
from .scope.session import KEPT
from .states import CONTROL_QUEUE, DIRECT, GPU_QUEUES, PREP_QUEUE, Stage, Status, common_queue
from .tables import (
    Adapter,
    Announcement,
    Attempt,
    Checkpoint,
    Dataset,
    Event,
    Job,
    JobDataset,
    MetricPoint,
    Table,
    Tenant,
    Worker,
)
from .tables.champion import Champion
from .tables.dataset import TRAIN
from .tables.schedule import Schedule
from .tables.types import JsonObject
from .views import JobDetail, JobView, view_fields, view_of
from .workers import obstacle

DEFAULT_TENANT = "default"
"""The tenant of whoever names none; it exists in each installation, also before its first job."""
LIST = "`celora list` shows what there is."
LIST_OF_TENANTS = "`celora tenant list` shows what there is."
LONGEST_SHOWN = 64
"""Characters of a name or id that nobody has, in the sentence that says so; no id and no tenant's name is longer."""
FURTHEST = (Checkpoint.step.desc(), Checkpoint.created_at.desc())
"""The order in which checkpoints are tried."""
LARGE = (defer(Job.evaluation), defer(Job.summary), defer(Job.prepared), defer(Job.request))
"""Options of a query that leave the large columns out, which no view of a list shows."""
ACTIVE = (Status.QUEUED, Status.RUNNING)
STARTED = "training_started"
"""The kind of the event whose data holds the facts of a training."""
STAGE_ENDS = ("stage_finished", "released", "retrying", "worker_lost", "failed", "cancelled")
"""Kinds of events whose data may hold the seconds of a stage."""
_JOB_ID = bindparam("job_id", type_=String())
_KEPT = {KEPT: True}
_JOB = select(Job).where(Job.id == _JOB_ID).execution_options(**_KEPT)
_JOB_OF = _JOB.where(Job.tenant == bindparam("tenant", type_=String()))
_DATASETS = (
    select(JobDataset.role, Dataset)
    .join(Dataset, Dataset.id == JobDataset.dataset_id)
    .where(JobDataset.job_id == _JOB_ID)
    .order_by(JobDataset.role != TRAIN, JobDataset.role)
    .execution_options(**_KEPT)
)
_FURTHEST = (
    select(func.max(Checkpoint.step))
    .where(Checkpoint.job_id.in_(bindparam("job_ids", expanding=True)))
    .execution_options(**_KEPT)
)
_TOLD = (
    select(Event.kind, Event.data)
    .where(Event.job_id == _JOB_ID, Event.kind.in_((STARTED, *STAGE_ENDS)))
    .order_by(Event.id)
    .execution_options(**_KEPT)
)
Named = Adapter | Champion | Dataset | Schedule
"""Rows that belong to a tenant and that people call by a name."""


def get_job(session: Session, job_id: str, tenant: str | None = None) -> Job:
    """Return the job of exactly that id.

    Raises:
        NotFoundError: The session's scope shows no such job. The sentence is the same for a job of another tenant and
            for an id that nobody has.
    """
    found = (
        session.scalars(_JOB, {"job_id": job_id})
        if tenant is None
        else session.scalars(_JOB_OF, {"job_id": job_id, "tenant": tenant})
    )
    job = found.one_or_none()
    if job is None:
        raise NotFoundError(f"there is no job {job_id[:LONGEST_SHOWN]}.", hint=LIST)
    return job


def find(session: Session, job_id: str, tenant: str | None = None) -> Job:
    """Find the job of that id, or the one whose id begins so; only for commands, where a person types the id.

    Raises:
        NotFoundError: No job matches, or more than one.
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
    raise NotFoundError(f"there is no job {job_id[:LONGEST_SHOWN]}.", hint=LIST)


def get_tenant(session: Session, name: str) -> str:
    """Return the name of a tenant that exists; ``default`` always does.

    Raises:
        NotFoundError: There is no such tenant, or the session's scope hides it.
    """
    if name != DEFAULT_TENANT and session.get(Tenant, name) is None:
        raise NotFoundError(f"there is no tenant {name[:LONGEST_SHOWN]}.", hint=LIST_OF_TENANTS)
    return name


def tenants_with(session: Session, name: str, *tables: type[Named]) -> list[str]:
    """List the tenants that have a row of that name in one of the tables, sorted by name."""
    owners = [select(table.tenant).where(table.name == name) for table in tables]
    return sorted({tenant for owner in owners for tenant in session.scalars(owner.distinct())})


def job_detail(session: Session, job_id: str, tenant: str | None = None) -> JobDetail:
    """Return all that people and programs read about one job.

    Raises:
        NotFoundError: There is no such job.
    """
    job = get_job(session, job_id, tenant)
    told = _told(session, job.id)
    trained = training_facts(_last(told, STARTED), job.result)
    return JobDetail(
        **view_fields(job, wait_sentences(session, [job])),
        stage_seconds=_stage_seconds(told),
        trainable_parameters=trained.trainable_parameters,
        trainable_share=trained.trainable_share,
        datasets=datasets_of(session, job.id),
        continue_from=job.spec.get("continue_from"),
        prepared=job.prepared_uri is not None,
        checkpoint_step=furthest(session, job),
        preference=ratings.of_job(session, job.tenant, job.id),
        estimate=estimate_view(job),
        evaluation=job.evaluation,
        summary=job.summary,
    )


def datasets_of(session: Session, job_id: str) -> dict[str, JsonObject]:
    """Return the versions that a job used, by role, the training rows' first: name, version, sha256."""
    rows = session.execute(_DATASETS, {"job_id": job_id})
    return {role: {"name": row.name, "version": row.version, "sha256": row.sha256} for role, row in rows}


def list_jobs(
    session: Session,
    *,
    tenant: str | None = None,
    status: str | None = None,
    limit: int = 50,
    after: str | None = None,
) -> list[JobView]:
    """List jobs, the newest first; ``after`` is the id of the last job of the page before."""
    values: JsonObject = {"most": limit}
    if tenant is not None:
        values["tenant"] = tenant
    if status is not None:
        values["status"] = Status(status)
    if after is not None:
        last = get_job(session, after, tenant)
        values |= {"created_at": last.created_at, "id": last.id}
    jobs = list(session.scalars(_list_statement(frozenset(values)), values))
    waits = wait_sentences(session, jobs)
    return [view_of(job, waits) for job in jobs]


@cache
def _list_statement(names: frozenset[str]) -> Select[Job]:
    """Build the list that these values narrow, once."""
    wanted = select(Job).options(*LARGE).order_by(Job.created_at.desc(), Job.id.desc())
    wanted = wanted.limit(bindparam("most", type_=Integer())).execution_options(**{KEPT: True})
    columns = {"tenant": Job.tenant, "status": Job.status, "created_at": Job.created_at, "id": Job.id}
    value = {name: bindparam(name, type_=column.type) for name, column in columns.items()}
    for name in sorted(names & {"tenant", "status"}):
        wanted = wanted.where(columns[name] == value[name])
    if "id" in names:
        wanted = wanted.where(tuple_(Job.created_at, Job.id) < tuple_(value["created_at"], value["id"]))
    return wanted


def running_jobs(session: Session) -> list[JobView]:
    """List the running jobs."""
    running = select(Job).options(*LARGE).where(Job.status == Status.RUNNING)
    return [view_of(job, {}) for job in session.scalars(running)]


def job_view(session: Session, job_id: str) -> JobView | None:
    """Return the view of the job of exactly that id; None if there is none."""
    job = session.scalars(select(Job).options(*LARGE).where(Job.id == job_id)).one_or_none()
    return view_of(job, wait_sentences(session, [job])) if job is not None else None


def events(session: Session, job_id: str, after_id: int = 0, tenant: str | None = None) -> list[JsonObject]:
    """List the events of a job after the event of that id, in order."""
    job = get_job(session, job_id, tenant)
    rows = select(Event).where(Event.job_id == job.id, Event.id > after_id).order_by(Event.id)
    return [_columns(row) for row in session.scalars(rows)]


def metric_points(session: Session, job_id: str, tenant: str | None = None) -> list[JsonObject]:
    """List the metric points in order of step; where two attempts did a step, the later attempt's point counts."""
    job = get_job(session, job_id, tenant)
    rows = select(MetricPoint).where(MetricPoint.job_id == job.id).order_by(MetricPoint.step, MetricPoint.attempt)
    by_step = {row.step: _columns(row) for row in session.scalars(rows)}
    return list(by_step.values())


def metric_series(session: Session, job_id: str, *, most: int, tenant: str | None = None) -> list[JsonObject]:
    """List at most so many metric points of a job, spread evenly over its steps, in order of step.

    The steps are divided into equal spans, and the last point of each span is read; the database chooses the points, so
    a long job costs little more than a short one. Where two attempts did a span, the later attempt's point counts.
    """
    job = get_job(session, job_id, tenant)
    mine = MetricPoint.job_id == job.id
    last = _last_step(session, job)
    span_steps = last // max(1, most) + 1
    ends = select(MetricPoint.attempt, func.max(MetricPoint.step)).where(mine)
    ends = ends.group_by(MetricPoint.attempt, MetricPoint.step // span_steps)
    by_span = {row[1] // span_steps: tuple(row) for row in sorted(map(tuple, session.execute(ends)))}
    if not by_span:
        return []
    chosen = tuple_(MetricPoint.attempt, MetricPoint.step).in_(list(by_span.values()))
    return [
        _columns(row) for row in session.scalars(select(MetricPoint).where(mine, chosen).order_by(MetricPoint.step))
    ]


def _last_step(session: Session, job: Job) -> int:
    """Return the last measured step of a job; the index finds each attempt's last step without reading the others."""
    of_attempts = [
        select(func.max(MetricPoint.step))
        .where(MetricPoint.job_id == job.id, MetricPoint.attempt == attempt)
        .scalar_subquery()
        for attempt in range(job.attempt + 1)
    ]
    return max((step for step in session.execute(select(*of_attempts)).one() if step is not None), default=0)


def adapters(session: Session, *, tenant: str | None = None, limit: int = 200) -> list[JsonObject]:
    """List published adapters that are not deleted, the newest first."""
    present = select(Adapter).where(Adapter.deleted_at.is_(None))
    wanted = present.order_by(Adapter.created_at.desc(), Adapter.id.desc()).limit(limit)
    if tenant is not None:
        wanted = wanted.where(Adapter.tenant == tenant)
    hidden = ("model_id", "deleted_at")
    rows = [_columns(row) for row in session.scalars(wanted)]
    return [{name: value for name, value in row.items() if name not in hidden} for row in rows]


def workers(session: Session, foreign_limit_bytes: int = sys.maxsize) -> list[JsonObject]:
    """List every registered worker; ``jobs`` holds its running jobs' ids, ``obstacle`` says why it takes no work."""
    running: dict[str, list[str]] = {}
    pairs = select(Job.worker_id, Job.id).where(Job.status == Status.RUNNING).order_by(Job.id)
    for worker_id, job_id in session.execute(pairs):
        running.setdefault(str(worker_id), []).append(job_id)
    rows = session.scalars(select(Worker).order_by(Worker.id))
    return [
        {**_columns(row), "jobs": running.get(row.id, []), "obstacle": obstacle(row, foreign_limit_bytes)}
        for row in rows
    ]


def queues(session: Session) -> list[JsonObject]:
    """List the queues: ``waiting`` (pending jobs bound for it, and queued ones), ``running``, ``slots``, ``free``.

    A pending job that takes any GPU type counts under ``gpu.auto``, or under the one type that is online. A worker's
    direct queue shares the slots of the common queue of its type, and its jobs count there.
    """
    online = session.execute(select(Worker.queues, Worker.slots).where(Worker.status == "online"))
    slots: dict[str, int] = {}
    for names, count in online:
        for name in {common_queue(name) for name in names}:
            slots[name] = slots.get(name, 0) + count
    gpu_queues = [name for name in slots if name.startswith(GPU_QUEUES)]
    auto = gpu_queues[0] if len(gpu_queues) == 1 else GPU_QUEUES + "auto"
    waiting, taken, running = dict.fromkeys(slots, 0), dict.fromkeys(slots, 0), dict.fromkeys(slots, 0)
    for status, stage, gpu, queue, count in count_by_queue(session):
        name = common_queue(queue) if status in ACTIVE and queue else queue_to_be(stage, gpu, auto)
        counted = running if status is Status.RUNNING else waiting
        counted[name] = counted.get(name, 0) + count
        taken[name] = taken.get(name, 0) + (count if status in ACTIVE else 0)
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
    """List the checkpoints from which the present attempt may resume, the furthest first.

    The list holds those of earlier attempts, and those of the jobs that this job is a retry of.
    """
    job = session.get(Job, job_id)
    if job is None:
        return []
    mine = (Checkpoint.job_id == job_id) & (Checkpoint.attempt < job.attempt)
    usable = or_(mine, Checkpoint.job_id.in_(ancestors(session, job)))
    return list(session.scalars(select(Checkpoint).where(usable).order_by(*FURTHEST)))


def newest_step(session: Session, job: Job) -> int | None:
    """Return the last step committed by an earlier attempt, or by a job that this one retries; None without one."""
    mine = (Checkpoint.job_id == job.id) & (Checkpoint.attempt < job.attempt)
    usable = or_(mine, Checkpoint.job_id.in_(ancestors(session, job)))
    return session.scalar(select(func.max(Checkpoint.step)).where(usable))


def ancestors(session: Session, job: Job) -> list[str]:
    """List the jobs of the same tenant from whose checkpoints this job may resume, the nearest first."""
    found: list[str] = []
    before = job.resume_of
    while before is not None and before not in found:
        link = session.execute(select(Job.id, Job.resume_of).where(Job.id == before, Job.tenant == job.tenant)).first()
        if link is None:
            break
        found.append(link.id)
        before = link.resume_of
    return found


def furthest(session: Session, job: Job) -> int | None:
    """Return the furthest step with a checkpoint of a job and of the jobs that it continues."""
    return session.scalar(_FURTHEST, {"job_ids": [job.id, *ancestors(session, job)]})


def attempt_error(session: Session, job_id: str, attempt: int) -> JobError | None:
    """Read the error with which an attempt of a job ended; None where it ended otherwise, or did not end."""
    mine = (Attempt.job_id == job_id, Attempt.number == attempt)
    return JobError.read(session.scalar(select(Attempt.error).where(*mine)))


def undelivered(session: Session, claim_s: float, direct_s: float | None = None) -> list[Job]:
    """List jobs whose message was sent that long ago and was never claimed, the oldest first.

    Args:
        session: An open session.
        claim_s: Seconds since the message was sent.
        direct_s: The same for messages to the direct queue of one worker; None: as for the others.
    """
    at = now(session)
    direct = claim_s if direct_s is None else direct_s
    before = {"before": at - timedelta(seconds=claim_s), "before_direct": at - timedelta(seconds=direct)}
    return list(session.scalars(_undelivered_statement(), before))


@cache
def _undelivered_statement() -> Select[Job]:
    """Build the search for lost messages, once: each tick makes it."""
    before, before_direct = (bindparam(name, type_=Job.sent_at.type) for name in ("before", "before_direct"))
    direct = and_(Job.queue.contains(DIRECT, autoescape=True), Job.sent_at < before_direct)
    late = or_(Job.sent_at < before, direct)
    return select(Job).where(Job.status == Status.QUEUED, late).order_by(Job.sent_at, Job.id)


def oldest_direct(session: Session) -> datetime | None:
    """Return when the oldest unclaimed message in the direct queue of a worker was sent; None where none waits."""
    return session.scalar(_oldest_direct_statement())


@cache
def _oldest_direct_statement() -> Select[datetime | None]:
    waits = (Job.status == Status.QUEUED, Job.queue.contains(DIRECT, autoescape=True))
    return select(func.min(Job.sent_at)).where(*waits)


def unannounced(session: Session) -> list[str]:
    """List the ids of ended jobs whose announcement is neither made nor claimed, the oldest first."""
    return list(session.scalars(_unannounced_statement(), {"at": now(session)}))


@cache
def _unannounced_statement() -> Select[str]:
    """Build the search for ends without an announcement, once: each tick makes it."""
    at = bindparam("at", type_=Announcement.claimed_until.type)
    free = or_(Announcement.claimed_until.is_(None), Announcement.claimed_until < at)
    missing = select(Announcement.job_id).where(Announcement.announced_at.is_(None), free)
    return missing.order_by(Announcement.created_at)


def _columns(row: Table) -> JsonObject:
    return {column.key: getattr(row, column.key) for column in row.__mapper__.column_attrs}


def _told(session: Session, job_id: str) -> list[tuple[str, JsonObject]]:
    """Read kind and data of the events that end a stage or begin a training, in order; a job has few of them.

    Python reads the data, not SQL: PostgreSQL refuses to query JSON that holds an escaped NUL, which records of earlier
    versions may hold.
    """
    rows = session.execute(_TOLD, {"job_id": job_id})
    return [(kind, data) for kind, data in rows if data]


def _last(told: Iterable[tuple[str, JsonObject]], kind: str) -> JsonObject | None:
    return next((data for each, data in reversed(list(told)) if each == kind), None)


def _stage_seconds(told: Iterable[tuple[str, JsonObject]]) -> dict[str, float]:
    """Sum the seconds of each stage over the attempts."""
    total: dict[str, float] = defaultdict(float)
    for kind, data in told:
        if kind in STAGE_ENDS and data.get("seconds") is not None:
            total[data["stage"]] += data["seconds"]
    return {each.value: round(total[each.value], 3) for each in Stage if each.value in total}


def queue_to_be(stage: Stage, gpu: str, auto: str) -> str:
    """Return the queue that a pending job will go to; ``auto`` stands for the GPU type that is not chosen yet."""
    if stage.on_gpu:
        return auto if gpu == "auto" else GPU_QUEUES + gpu
    return PREP_QUEUE if stage is Stage.PREPARE else CONTROL_QUEUE
