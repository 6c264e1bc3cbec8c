"""Reads schedules and their runs, and writes them with the guards that ensure that no run happens twice.

A process that runs a schedule locks its row (``lock``), so that of two processes the second sees the first one's
writes. A run is claimed by the insertion of its key (``claim_run``), in the transaction that writes its job. Either
guard would be enough alone.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from ..errors import NotFoundError, SettingsError, did_you_mean
from .database import now
from .rows import upsert_insert
from .states import FINAL
from .tables import Job, Schedule, ScheduleRun, Tenant

SUBMITTED, WAITING, SKIPPED, MISSED = "submitted", "waiting", "skipped", "missed"
REPLACED, FAILED = "replaced", "failed"

_SHOWN = (
    "id", "tenant", "name", "cron", "timezone", "every_s", "when_new_rows", "when_data_changed", "spec", "missed",
    "overlap", "paused", "created_at", "last_slot", "next_slot", "seen", "looked", "last_error", "last_error_at",
)  # fmt: skip


def create(session: Session, **fields: Any) -> Schedule:
    """Write a schedule into the record.

    Raises:
        SettingsError: The tenant has a schedule of that name.
    """
    at = now(session)
    tenant = upsert_insert(session, Tenant).values(name=fields["tenant"], created_at=at)
    session.execute(tenant.on_conflict_do_nothing(index_elements=["name"]))
    row = {"created_at": at, "updated_at": at, "last_slot": at, **fields}
    schedule = upsert_insert(session, Schedule).values(**row)
    made = session.scalar(schedule.on_conflict_do_nothing(index_elements=["tenant", "name"]).returning(Schedule.id))
    if made is None:
        raise SettingsError(
            f"there is a schedule {fields['name']} already.",
            hint=f"Take another name, or remove it first: celora schedule remove {fields['name']}.",
        )
    return session.get_one(Schedule, made)


def find(session: Session, tenant: str, name: str) -> Schedule:
    """Find the schedule of that name.

    Raises:
        NotFoundError: There is no such schedule; the message offers a similar name.
    """
    wanted = select(Schedule).where(Schedule.tenant == tenant, Schedule.name == name)
    found = session.scalars(wanted).one_or_none()
    if found is not None:
        return found
    names = list(session.scalars(select(Schedule.name).where(Schedule.tenant == tenant)))
    raise NotFoundError(
        f"there is no schedule {name}" + did_you_mean(name, names),
        hint="See `celora schedule list`.",
    )


def listed(session: Session, tenant: str | None = None) -> list[dict[str, Any]]:
    """List every schedule by name, with ``last``: its last run, as ``recent`` returns it."""
    wanted = select(Schedule).order_by(Schedule.tenant, Schedule.name)
    if tenant is not None:
        wanted = wanted.where(Schedule.tenant == tenant)
    return [
        {**shown(row), "last": next(iter(recent(session, row.id, limit=1)), None)} for row in session.scalars(wanted)
    ]


def shown(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule's columns as a plain dict."""
    return {name: getattr(schedule, name) for name in _SHOWN}


def recent(session: Session, schedule_id: str, *, limit: int) -> list[dict[str, Any]]:
    """List the last runs, the newest first: key, at, outcome, message, and of the job id, status, contest.

    ``contest`` is the gate's decision about a job that competed for a champion.
    """
    wanted = select(ScheduleRun, Job.status, Job.summary).outerjoin(Job, Job.id == ScheduleRun.job_id)
    mine = wanted.where(ScheduleRun.schedule_id == schedule_id).order_by(
        ScheduleRun.created_at.desc(), ScheduleRun.at.desc()
    )
    return [
        {
            **{name: getattr(run, name) for name in ("key", "at", "created_at", "outcome", "message", "job_id")},
            "status": status.value if run.job_id else None,
            "contest": summary.get("champion") if summary is not None else None,
        }
        for run, status, summary in session.execute(mine.limit(limit))
    ]


def due_or_watching(session: Session) -> list[str]:
    """List the ids of the schedules that a round must check.

    They are due by the clock, watch data, have a waiting run, or had their last run at a time that is still to come,
    because the clock was set back.
    """
    waiting = select(ScheduleRun.schedule_id).where(ScheduleRun.outcome == WAITING)
    watching = Schedule.cron.is_(None) & Schedule.every_s.is_(None)
    at = now(session)
    due = or_(Schedule.next_slot <= at, Schedule.last_slot > at, watching, Schedule.id.in_(waiting))
    wanted = select(Schedule.id).where(Schedule.paused.is_(False), due).order_by(Schedule.next_slot, Schedule.id)
    return list(session.scalars(wanted))


def lock(session: Session, schedule_id: str) -> Schedule | None:
    """Lock a schedule's row, as it is now, until the transaction ends; None if it is gone."""
    taken = update(Schedule).where(Schedule.id == schedule_id).values(updated_at=now(session)).returning(Schedule)
    return session.scalars(taken.execution_options(populate_existing=True, synchronize_session=False)).one_or_none()


def claim_run(
    session: Session, schedule_id: str, key: str, *, at: datetime, outcome: str, message: str
) -> ScheduleRun | None:
    """Claim a run by inserting its key; None if the key exists already."""
    values = {"schedule_id": schedule_id, "key": key, "at": at, "created_at": now(session), "outcome": outcome}
    made = session.scalar(
        upsert_insert(session, ScheduleRun)
        .values(**values, message=message)
        .on_conflict_do_nothing(index_elements=["schedule_id", "key"])
        .returning(ScheduleRun.key)
    )
    return session.get_one(ScheduleRun, (schedule_id, made)) if made is not None else None


def unfinished(session: Session, schedule_id: str) -> Job | None:
    """Return the newest job of the schedule that has not ended."""
    mine = select(Job).join(ScheduleRun, ScheduleRun.job_id == Job.id).where(ScheduleRun.schedule_id == schedule_id)
    rows = mine.where(Job.status.not_in(FINAL)).order_by(Job.created_at.desc(), Job.id.desc()).limit(1)
    return session.scalars(rows.execution_options(populate_existing=True)).one_or_none()


def waiting_runs(session: Session, schedule_id: str) -> list[ScheduleRun]:
    """List the runs that wait for the run before them, in order."""
    mine = select(ScheduleRun).where(ScheduleRun.schedule_id == schedule_id, ScheduleRun.outcome == WAITING)
    return list(session.scalars(mine.order_by(ScheduleRun.created_at, ScheduleRun.at, ScheduleRun.key)))


def run_of(session: Session, job_id: str) -> ScheduleRun | None:
    """Return the run of a schedule that a job trains; None if no schedule submitted the job."""
    return session.scalars(select(ScheduleRun).where(ScheduleRun.job_id == job_id)).one_or_none()


def record_fault(session: Session, schedule_id: str, message: str) -> None:
    """Record a schedule's fault, unless the same fault is recorded already."""
    changed = update(Schedule).where(Schedule.id == schedule_id, func.coalesce(Schedule.last_error, "") != message)
    session.execute(
        changed.values(last_error=message, last_error_at=now(session)).execution_options(synchronize_session=False)
    )
