"""The tables: one typed class each.

Unusual: their types take no naive time, no NUL and no NaN (columns.py). Nothing outside ``transitions`` writes a job's
status. Schedules and their slots stand in a module of their own.
"""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, false, text
from sqlalchemy import UniqueConstraint as Unique
from sqlalchemy.orm import Mapped, mapped_column

from .champion_tables import Champion  # noqa: F401  # pyright: ignore[reportUnusedImport]  (its tables are the record's too)
from .columns import JsonObject, Table, Words, job_key
from .schedule_tables import Schedule, Slot  # noqa: F401  # pyright: ignore[reportUnusedImport]  (tables of the record too)
from .states import Reason, Stage, Status


class Tenant(Table):
    """Who pays."""

    __tablename__ = "tenant"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime]
    max_gpus: Mapped[int | None]


class Job(Table):
    """One request to fine-tune; the truth about it.

    ``attempt`` is the fencing token and only rises. ``claimed_at`` is the start of the present stage, ``sent_at`` the
    time its message was sent, ``publication`` how often. ``faults`` counts errors by code, ``adjusted`` is what the
    device's memory forced (recipe.Adjusted), ``least_memory_bytes`` what a device must have after all; ``not_before``
    holds a job back that failed a moment ago; ``resume_of`` is the job whose checkpoints it may go on from. Of a job
    that was let go (``retention``) ``prepared_uri`` is unset again, and ``log_uri`` empty once its logs are gone, too.
    """

    __tablename__ = "job"
    __table_args__ = (
        Index(None, "status", "stage"),
        Index(None, "lease_until"),
        Index(None, "tenant", "created_at"),
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
    paused: Mapped[bool] = mapped_column(default=False, server_default=false())
    recovered: Mapped[bool] = mapped_column(default=False)
    not_before: Mapped[datetime | None]

    attempt: Mapped[int] = mapped_column(default=1)
    stale_attempts: Mapped[int] = mapped_column(default=0)
    publication: Mapped[int] = mapped_column(default=0)
    priority: Mapped[int] = mapped_column(default=0)
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

    spec: Mapped[JsonObject]
    resolved: Mapped[JsonObject | None]
    base: Mapped[JsonObject | None]
    prepared: Mapped[JsonObject | None]
    prepared_uri: Mapped[str | None]
    dataset_sha256: Mapped[str | None] = mapped_column(String(64))
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    least_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    adjusted: Mapped[JsonObject | None]
    faults: Mapped[JsonObject | None]
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
    """One go at a job; its number is the fencing token."""

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
    """What happened to a job, in order of ``id``."""

    __tablename__ = "event"
    __table_args__ = (Index(None, "job_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = job_key()
    attempt: Mapped[int]
    at: Mapped[datetime]
    level: Mapped[str]
    kind: Mapped[str]
    message: Mapped[str]
    data: Mapped[JsonObject | None]


class MetricPoint(Table):
    """What was measured at one step; training and evaluation of a step share the row."""

    __tablename__ = "metric_point"

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


class Dataset(Table):
    """An imported dataset: content by its hash, a name with versions; the same content under a name is one version."""

    __tablename__ = "dataset"
    __table_args__ = (Unique("tenant", "name", "version"), Unique("tenant", "name", "sha256"))

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"))
    name: Mapped[str]
    version: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    uri: Mapped[str]
    rows: Mapped[int | None]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


class JobDataset(Table):
    """Which version of a dataset a job saw; ``role`` is ``train``, or the name of a held-out set."""

    __tablename__ = "job_dataset"
    __table_args__ = (Index(None, "dataset_id"),)

    job_id: Mapped[str] = job_key(primary=True)
    role: Mapped[str] = mapped_column(String(64), primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))


class Adapter(Table):
    """A published adapter; its id is its job's."""

    __tablename__ = "adapter"
    __table_args__ = (Index(None, "tenant", "name"),)

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


class Checkpoint(Table):
    """A committed checkpoint: a state that training can go on from."""

    __tablename__ = "checkpoint"

    job_id: Mapped[str] = job_key(primary=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    uri: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]


class Worker(Table):
    """A Celery worker that registered; ``status`` is online, draining or offline.

    A cordoned one takes nothing because a person said so, an ``unhealthy`` one because its device failed twice in a
    row, and one with ``foreign_bytes`` above the limit because somebody else uses its device; ``note`` says why.
    """

    __tablename__ = "worker"

    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    host: Mapped[str]
    kind: Mapped[str]
    gpu_type: Mapped[str | None]
    device_index: Mapped[int | None]
    device_uuid: Mapped[str | None]
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    slots: Mapped[int] = mapped_column(default=1)
    pid: Mapped[int]
    versions: Mapped[JsonObject] = mapped_column(default=dict)
    queues: Mapped[list[str]] = mapped_column(default=list)
    status: Mapped[str]
    cordoned: Mapped[bool] = mapped_column(default=False, server_default=false())
    drain_asked: Mapped[bool] = mapped_column(default=False, server_default=false())
    health: Mapped[str] = mapped_column(String(16), default="ok", server_default="ok")
    device_faults: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    foreign_bytes: Mapped[int | None] = mapped_column(BigInteger)
    note: Mapped[str | None]
    registered_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]


class Announcement(Table):
    """A job's end that its caller must be told of: the outbox."""

    __tablename__ = "announcement"

    job_id: Mapped[str] = job_key(primary=True)
    created_at: Mapped[datetime]
    claimed_until: Mapped[datetime | None]
    announced_at: Mapped[datetime | None] = mapped_column(index=True)
    attempts: Mapped[int] = mapped_column(default=0)


class Beacon(Table):
    """When the reapers last looked at the record, and since when without a lapse."""

    __tablename__ = "beacon"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    seen_at: Mapped[datetime]
    since: Mapped[datetime]


class SafeBatch(Table):
    """The micro batch that a base, a GPU type and a length were found to bear after an out-of-memory error."""

    __tablename__ = "safe_batch"

    base: Mapped[str] = mapped_column(String(255), primary_key=True)
    gpu_type: Mapped[str] = mapped_column(String(32), primary_key=True)
    max_length: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    micro_batch: Mapped[int]
    gradient_checkpointing: Mapped[bool]
    updated_at: Mapped[datetime]
