"""Defines the tables of jobs: a job, its attempts, events, measurements, checkpoints, adapter and announcement.

Unusual: only ``models.jobs.status.switch_status`` changes ``Job.status``.
"""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, false, text
from sqlalchemy.orm import Mapped, mapped_column

from ..states import JobClass, Reason, Stage, Status
from .types import JsonObject, Table, Words, job_key

WAITS = text("status = 'pending'")
"""The condition of the indexes that hold waiting jobs alone; a query names it in the same words (``jobs.waiting``)."""
UNREAD = "1970-01-01 00:00:00"
"""The server default of ``expires_at``."""
EXPIRES = text("expires_at IS NOT NULL")
EVALUATED = text("eval_loss IS NOT NULL")
"""The condition of the index that holds the measurements with an evaluation alone: few of them, in a long job."""
LANE = ("paused", "stage", "job_class", "gpu", "labels", "tenant")
"""The columns by which waiting jobs are divided: jobs that are equal in them wait for the same slots."""


class Job(Table):
    """One request to fine-tune; this row is the truth about the job.

    ``attempt`` is the fencing token and only rises. ``claimed_at`` is the start of the present stage, ``sent_at`` the
    time when its message was sent, ``publication`` the number of times. ``pause_cause`` is ``budget`` or ``limit``
    where the job's budget or its tenant's limit paused the job, and null where a person did; ``limited`` is the limit
    that keeps a waiting job from a slot, its code and its numbers. ``faults`` counts errors by code, ``adjusted`` holds
    the limits that a device's memory forced (recipe.Adjusted), ``least_memory_bytes`` the memory that a device must
    have after all. ``not_before`` delays a job that failed a moment ago; ``resume_of`` is the job from whose
    checkpoints it may resume. A job whose data was dropped (``retention``) has no ``prepared_uri`` any more, and an
    empty ``log_uri`` once its logs are gone, too.

    ``job_class`` and ``labels`` (names, sorted, joined by commas) narrow the slots that the job may get. ``expected_s``
    holds the seconds that its stages on a GPU take, by GPU type, as far as they are estimated; ``chosen`` says how
    ``auto`` was decided. ``expires_at`` is the caller's time, null once the job has ended; its server default, the
    epoch, marks a row of a program that does not know the column (``jobs.expiry``). ``preempt_requested`` asks a
    running job to checkpoint and to wait again, ``preempted_at`` is the last time that it did.
    """

    __tablename__ = "job"
    __table_args__ = (
        Index(None, "status", "stage"),
        Index(None, "lease_until"),
        Index(None, "tenant", "created_at"),
        Index(None, "created_at", "id"),
        Index(
            *("ix_job_turn", *LANE, text("recovered DESC"), text("priority DESC"), "created_at", "id"),
            info={"where": WAITS},
        ),
        Index("ix_job_age", *LANE, "created_at", info={"where": WAITS}),
        Index("ix_job_expires_at", "expires_at", info={"where": EXPIRES}),
        Index(None, "tenant", "status", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"))
    user: Mapped[str] = mapped_column("user_name", Words(), default="")  # "user" is a reserved word in SQL
    name: Mapped[str | None]

    status: Mapped[Status]
    stage: Mapped[Stage]
    reason: Mapped[Reason] = mapped_column(default=Reason.NONE)
    wait_reason: Mapped[str] = mapped_column(default="")
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    pause_requested: Mapped[bool] = mapped_column(default=False, server_default=false())
    preempt_requested: Mapped[bool] = mapped_column(default=False, server_default=false())
    paused: Mapped[bool] = mapped_column(default=False, server_default=false())
    pause_cause: Mapped[str | None] = mapped_column(String(16))
    limited: Mapped[JsonObject | None]
    recovered: Mapped[bool] = mapped_column(default=False)
    not_before: Mapped[datetime | None]

    attempt: Mapped[int] = mapped_column(default=1)
    stale_attempts: Mapped[int] = mapped_column(default=0)
    publication: Mapped[int] = mapped_column(default=0)
    priority: Mapped[int] = mapped_column(default=0)
    job_class: Mapped[JobClass] = mapped_column(default=JobClass.NORMAL, server_default=JobClass.NORMAL.value)
    labels: Mapped[str] = mapped_column(String(255), default="", server_default=text("''"))
    gpu: Mapped[str]
    gpu_type: Mapped[str | None]
    queue: Mapped[str | None]
    worker_id: Mapped[str | None]
    lease_until: Mapped[datetime | None]

    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    claimed_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    released_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None] = mapped_column(server_default=text(f"'{UNREAD}'"))
    preempted_at: Mapped[datetime | None]

    spec: Mapped[JsonObject]
    resolved: Mapped[JsonObject | None]
    base: Mapped[JsonObject | None]
    prepared: Mapped[JsonObject | None]
    prepared_uri: Mapped[str | None]
    dataset_sha256: Mapped[str | None] = mapped_column(String(64))
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    least_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    adjusted: Mapped[JsonObject | None]
    expected_s: Mapped[dict[str, float] | None]
    chosen: Mapped[JsonObject | None]
    faults: Mapped[dict[str, int] | None]
    retry_of: Mapped[str | None] = mapped_column(String(64))
    resume_of: Mapped[str | None] = mapped_column(String(64))

    step: Mapped[int] = mapped_column(default=0)
    steps: Mapped[int | None]
    resume_step: Mapped[int | None]
    progress: Mapped[JsonObject | None]
    result: Mapped[JsonObject | None]
    metrics: Mapped[JsonObject | None]
    evaluation: Mapped[JsonObject | None]
    summary: Mapped[JsonObject | None]
    warnings: Mapped[list[str]] = mapped_column(default=list)
    error: Mapped[JsonObject | None]
    adapter_uri: Mapped[str | None]
    log_uri: Mapped[str | None]
    train_s: Mapped[float] = mapped_column(default=0.0, server_default=text("0"))
    gpu_seconds: Mapped[float] = mapped_column(default=0.0)
    cost: Mapped[float] = mapped_column(default=0.0)
    request: Mapped[JsonObject | None]


class Attempt(Table):
    """One attempt at a job; its number is the fencing token."""

    __tablename__ = "attempt"

    job_id: Mapped[str] = job_key(primary=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    worker_id: Mapped[str]
    gpu_type: Mapped[str | None]
    stage: Mapped[Stage]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    resume_step: Mapped[int | None]
    steps_done: Mapped[int] = mapped_column(default=0)
    error: Mapped[JsonObject | None]


class Event(Table):
    """An event of a job, in order of ``id``."""

    __tablename__ = "event"
    __table_args__ = (Index(None, "job_id", "id"), Index(None, "job_id", "at", "id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = job_key()
    attempt: Mapped[int]
    at: Mapped[datetime]
    level: Mapped[str]
    kind: Mapped[str]
    message: Mapped[str]
    data: Mapped[JsonObject | None]


class MetricPoint(Table):
    """The measurements of one step; training and evaluation of a step share the row.

    An accuracy is the share of the trained tokens that are the model's likeliest ones.
    """

    __tablename__ = "metric_point"
    __table_args__ = (
        Index(None, "job_id", "at", "attempt", "step"),
        Index(
            "ix_metric_point_evaluated",
            "job_id",
            "attempt",
            "step",
            info={"where": EVALUATED},
        ),
    )

    job_id: Mapped[str] = job_key(primary=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    train_loss: Mapped[float | None]
    eval_loss: Mapped[float | None]
    learning_rate: Mapped[float | None]
    grad_norm: Mapped[float | None]
    tokens_per_s: Mapped[float | None]
    gpu_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    gpu_utilisation: Mapped[float | None]
    train_accuracy: Mapped[float | None]
    eval_accuracy: Mapped[float | None]


class Checkpoint(Table):
    """A committed checkpoint: a state from which training can resume.

    ``epoch`` is the epoch that ended with it, counted from 1, where the job asked for a checkpoint at each end.
    """

    __tablename__ = "checkpoint"

    job_id: Mapped[str] = job_key(primary=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    uri: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    epoch: Mapped[int | None]


class Adapter(Table):
    """A published adapter; its id is its job's.

    ``model_id`` is its id as a model of the HTTP API. A deleted one keeps its row until its files are removed.
    """

    __tablename__ = "adapter"
    __table_args__ = (Index(None, "tenant", "name"), Index(None, "tenant", "model_id", unique=True))

    id: Mapped[str] = job_key(primary=True)
    name: Mapped[str]
    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"))
    base_name: Mapped[str]
    base_revision: Mapped[str]
    uri: Mapped[str]
    rank: Mapped[int]
    metrics: Mapped[JsonObject | None]
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    model_id: Mapped[str | None] = mapped_column(String(255))
    deleted_at: Mapped[datetime | None]


class Announcement(Table):
    """A row of the outbox: a job's end that must be announced to its caller."""

    __tablename__ = "announcement"

    job_id: Mapped[str] = job_key(primary=True)
    created_at: Mapped[datetime]
    claimed_until: Mapped[datetime | None]
    announced_at: Mapped[datetime | None] = mapped_column(index=True)
    attempts: Mapped[int] = mapped_column(default=0)
