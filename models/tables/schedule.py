"""Defines the tables of schedules: the jobs that are trained again and again, and each run of them.

Unusual: the table of runs and the columns ``last_slot`` and ``next_slot`` keep their older name; everywhere else a
*slot* is a GPU's turn.
"""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, false
from sqlalchemy import UniqueConstraint as Unique
from sqlalchemy.orm import Mapped, mapped_column

from .types import JsonObject, Table


class Schedule(Table):
    """A job spec and the times when it is trained again.

    Exactly one of ``cron``, ``every_s`` and the two ``when_…`` columns is set.
    ``last_slot`` is the time of the last run, ``next_slot`` that of the next one (none for a schedule that watches
    data). ``seen`` is the content that the last run trained on, ``looked`` the state of each data file when it was last
    read, so that a file is hashed only when it changed.
    """

    __tablename__ = "schedule"
    __table_args__ = (Unique("tenant", "name"), Index(None, "next_slot"))

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"))
    name: Mapped[str]

    cron: Mapped[str | None]
    timezone: Mapped[str] = mapped_column(default="UTC")
    every_s: Mapped[int | None]
    when_new_rows: Mapped[int | None]
    when_data_changed: Mapped[bool] = mapped_column(default=False, server_default=false())

    spec: Mapped[JsonObject]
    missed: Mapped[str] = mapped_column(String(16))
    overlap: Mapped[str] = mapped_column(String(16))
    paused: Mapped[bool] = mapped_column(default=False, server_default=false())

    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    last_slot: Mapped[datetime]
    next_slot: Mapped[datetime | None]
    seen: Mapped[JsonObject | None]
    looked: Mapped[JsonObject | None]
    last_error: Mapped[str | None]
    last_error_at: Mapped[datetime | None]


class ScheduleRun(Table):
    """One due time of a schedule; its key ensures that it is handled once, by any number of processes.

    ``outcome`` is its result: ``submitted`` (``job_id`` trains it), ``waiting`` (for the job before it; ``spec``
    is the job to come), ``skipped``, ``missed``, ``replaced`` or ``failed``; ``message`` says why.
    """

    __tablename__ = "slot"
    __table_args__ = (Index(None, "schedule_id", "outcome"), Index(None, "job_id"))

    schedule_id: Mapped[str] = mapped_column(
        String(64), ForeignKey("schedule.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    at: Mapped[datetime]
    created_at: Mapped[datetime]
    outcome: Mapped[str] = mapped_column(String(16))
    job_id: Mapped[str | None] = mapped_column(String(64), ForeignKey("job.id", ondelete="SET NULL"))
    message: Mapped[str] = mapped_column(default="")
    spec: Mapped[JsonObject | None]
