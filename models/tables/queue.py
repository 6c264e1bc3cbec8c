"""Defines the tables of the queue: why each lane of jobs waits, the recent use of each tenant, the runs that ended."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, false, text
from sqlalchemy.orm import Mapped, mapped_column

from ..states import JobClass, Stage
from .types import JsonObject, Table, job_key


class LaneReason(Table):
    """The reason why the jobs of a lane wait that need more than ``above_bytes`` of device memory.

    A lane holds the jobs that wait for the same slots: same stage, class, GPU type, labels and tenant. One row says for
    thousands of jobs why they wait; the row is written when its reason changes.
    """

    __tablename__ = "lane_reason"

    stage: Mapped[Stage] = mapped_column(primary_key=True)
    job_class: Mapped[JobClass] = mapped_column(primary_key=True)
    gpu: Mapped[str] = mapped_column(String(32), primary_key=True)
    labels: Mapped[str] = mapped_column(String(255), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"), primary_key=True)
    above_bytes: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    code: Mapped[str] = mapped_column(String(32))
    facts: Mapped[JsonObject]
    sentence: Mapped[str]
    since: Mapped[datetime]


class TenantUse(Table):
    """The GPU seconds that a tenant used of late: older ones count less (``scheduling.fair_share``).

    Every charge adds its seconds; a scheduling round takes the decay off and writes the time ``at`` until which that
    is done. ``competes`` says whether the tenant had a job that waited or ran in the last round.
    """

    __tablename__ = "tenant_use"

    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"), primary_key=True)
    gpu_seconds: Mapped[float] = mapped_column(default=0.0, server_default=text("0"))
    at: Mapped[datetime]
    competes: Mapped[bool] = mapped_column(default=False, server_default=false())


class MeasuredRun(Table):
    """The estimate of a job that completed, beside its measured use: later estimates are corrected by it.

    ``family`` is the architecture and the size of the base, ``length_tokens`` the class of the longest row.
    ``formula_s`` are the seconds of the formula, ``expected_s`` those that were expected when the job was prepared,
    ``took_s`` those that it held a device. The bytes are null where a device does not measure them.
    """

    __tablename__ = "measured_run"
    __table_args__ = (Index(None, "family", "at"), Index(None, "at"))

    job_id: Mapped[str] = job_key(primary=True)
    family: Mapped[str] = mapped_column(String(64))
    gpu_type: Mapped[str] = mapped_column(String(32))
    length_tokens: Mapped[int]
    formula_s: Mapped[float]
    expected_s: Mapped[float]
    took_s: Mapped[float]
    formula_bytes: Mapped[int | None] = mapped_column(BigInteger)
    peak_bytes: Mapped[int | None] = mapped_column(BigInteger)
    at: Mapped[datetime]
