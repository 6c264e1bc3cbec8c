"""Defines the tables of tenants: who pays, its keys and limits, what it used month by month, and who changed what.

Time and money are whole numbers, milliseconds and millionths of the currency of the prices: sums of them are exact, so
that the ledger, the charges and the jobs can be compared to the last unit.
"""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, text, true
from sqlalchemy.orm import Mapped, mapped_column

from .types import JsonObject, Table, job_key

NOTHING = text("0")


class Tenant(Table):
    """The party that pays for jobs, and its limits; a limit that is null does not exist, 0 means that nothing is left.

    ``max_jobs`` and ``max_gpus`` count jobs and devices at once; ``gpu_minutes`` and ``budget`` are the device minutes
    and the money of a UTC month. ``over`` says whether a job beyond a limit waits or is refused; ``classes`` are the
    classes of jobs that the tenant may submit. ``judged`` holds the month, its limits and its sums with which the jobs
    that wait for a limit were compared last; while these are the same, no scheduling round compares them again.
    """

    __tablename__ = "tenant"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime]
    max_gpus: Mapped[int | None]
    max_jobs: Mapped[int | None]
    gpu_minutes: Mapped[float | None]
    budget: Mapped[float | None]
    storage_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_priority: Mapped[int] = mapped_column(default=100, server_default=text("100"))
    weight: Mapped[float] = mapped_column(default=1.0, server_default=text("1"))
    over: Mapped[str] = mapped_column(String(8), default="wait", server_default="wait")
    classes: Mapped[str] = mapped_column(String(64), default="normal,background", server_default="normal,background")
    judged: Mapped[str | None] = mapped_column(String(128))


class ApiKey(Table):
    """A key that acts for a tenant; only its SHA-256 is kept, and ``shown`` is its beginning, for lists."""

    __tablename__ = "api_key"
    __table_args__ = (Index(None, "tenant", "created_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"))
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    shown: Mapped[str] = mapped_column(String(16))
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    rotated_from: Mapped[str | None] = mapped_column(String(64))


class AuditEntry(Table):
    """A change: who made it, with which key, to which object, from where, and the object before and after it.

    The database refuses to change and to delete a row (triggers of migration 0007). A row refers to nothing, since it
    outlives its tenant and its object. ``tenant`` is null for a change of the installation, such as a cordon.
    """

    __tablename__ = "audit"
    __table_args__ = (Index(None, "tenant", "id"), Index(None, "object"))

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    tenant: Mapped[str | None] = mapped_column(String(64))
    actor: Mapped[str]
    key_id: Mapped[str | None] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    object: Mapped[str] = mapped_column(String(255))
    address: Mapped[str]
    before: Mapped[JsonObject | None]
    after: Mapped[JsonObject | None]


class LedgerMonth(Table):
    """The use of one tenant in one UTC month (``2026-11``): what was charged, and what unfinished jobs hold."""

    __tablename__ = "ledger"

    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"), primary_key=True)
    month: Mapped[str] = mapped_column(String(7), primary_key=True)
    spent_ms: Mapped[int] = mapped_column(BigInteger, default=0, server_default=NOTHING)
    spent_micros: Mapped[int] = mapped_column(BigInteger, default=0, server_default=NOTHING)
    held_ms: Mapped[int] = mapped_column(BigInteger, default=0, server_default=NOTHING)
    held_micros: Mapped[int] = mapped_column(BigInteger, default=0, server_default=NOTHING)
    updated_at: Mapped[datetime]


class Hold(Table):
    """The estimate of an unfinished job's use, what it holds of its tenant's month, and what is charged already.

    ``basis`` is the source of the estimate, ``bytes`` or ``receipt``. A job that holds nothing waits for its tenant's
    limits. ``asks`` marks a hold that the next scheduling round is to estimate and to take; rows of a program that does
    not know the column ask, too. The row is deleted when the job has ended and is settled.
    """

    __tablename__ = "hold"
    __table_args__ = (
        Index(None, "held_ms"),
        Index("ix_hold_asks", "job_id", info={"where": text("asks")}),
    )

    job_id: Mapped[str] = job_key(primary=True)
    month: Mapped[str] = mapped_column(String(7))
    basis: Mapped[str] = mapped_column(String(8))
    wanted_ms: Mapped[int] = mapped_column(BigInteger)
    wanted_micros: Mapped[int] = mapped_column(BigInteger)
    held_ms: Mapped[int] = mapped_column(BigInteger, default=0, server_default=NOTHING)
    held_micros: Mapped[int] = mapped_column(BigInteger, default=0, server_default=NOTHING)
    settled_ms: Mapped[int] = mapped_column(BigInteger, default=0, server_default=NOTHING)
    settled_micros: Mapped[int] = mapped_column(BigInteger, default=0, server_default=NOTHING)
    asks: Mapped[bool] = mapped_column(default=True, server_default=true())
    updated_at: Mapped[datetime]


class Charge(Table):
    """The use of one attempt in one UTC month; the ledger's month is the sum of its tenant's charges."""

    __tablename__ = "charge"
    __table_args__ = (Index(None, "month"),)

    job_id: Mapped[str] = job_key(primary=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    month: Mapped[str] = mapped_column(String(7), primary_key=True)
    device_ms: Mapped[int] = mapped_column(BigInteger, default=0, server_default=NOTHING)
    cost_micros: Mapped[int] = mapped_column(BigInteger, default=0, server_default=NOTHING)
    at: Mapped[datetime]
