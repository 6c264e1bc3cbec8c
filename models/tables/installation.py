"""Defines the tables of an installation: workers, the reaper's watch, and micro batches known to fit."""

from datetime import datetime

from sqlalchemy import BigInteger, String, false, text
from sqlalchemy.orm import Mapped, mapped_column

from .types import JsonObject, Table


class Worker(Table):
    """A Celery worker that registered; ``status`` is online, draining or offline.

    A cordoned worker takes no work because a person excluded it, an ``unhealthy`` worker because its device failed
    twice in a row, and a worker with ``foreign_bytes`` above the limit because another user's process holds memory of
    its device; ``note`` gives the reason. A worker that is ``reserved_for`` a tenant takes no other tenant's jobs; one
    with ``labels`` (names, sorted, joined by commas) takes the jobs that ask for some of them; ``bases`` are the base
    models that it holds in memory. ``resident`` describes its trainer host (``models.workers.Resident``);
    ``host_restart_asked`` asks the worker to end the host, and ``faulted_host`` is the host whose crash counted last.
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
    reserved_for: Mapped[str | None] = mapped_column(String(64))
    labels: Mapped[str] = mapped_column(String(255), default="", server_default=text("''"))
    bases: Mapped[list[str] | None]
    resident: Mapped[JsonObject | None]
    status: Mapped[str]
    cordoned: Mapped[bool] = mapped_column(default=False, server_default=false())
    drain_asked: Mapped[bool] = mapped_column(default=False, server_default=false())
    host_restart_asked: Mapped[bool] = mapped_column(default=False, server_default=false())
    health: Mapped[str] = mapped_column(String(16), default="ok", server_default="ok")
    device_faults: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    faulted_host: Mapped[str | None] = mapped_column(String(64))
    foreign_bytes: Mapped[int | None] = mapped_column(BigInteger)
    note: Mapped[str | None]
    registered_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]


class Beacon(Table):
    """The time of the reapers' last run, and the time since which their runs had no gap."""

    __tablename__ = "beacon"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    seen_at: Mapped[datetime]
    since: Mapped[datetime]


class SafeBatch(Table):
    """The micro batch that fits a base, a GPU type and a length, found after an out-of-memory error."""

    __tablename__ = "safe_batch"

    base: Mapped[str] = mapped_column(String(255), primary_key=True)
    gpu_type: Mapped[str] = mapped_column(String(32), primary_key=True)
    max_length: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    micro_batch: Mapped[int]
    gradient_checkpointing: Mapped[bool]
    updated_at: Mapped[datetime]
