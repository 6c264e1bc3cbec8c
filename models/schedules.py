"""Schedules and their slots in the record: reads, and the guarded writes on which "never twice" rests.

Whoever deals with a schedule holds its row (``hold``), so that of two who look at once the second sees what the first
did; a slot is claimed by inserting its key (``claim``), in the transaction that writes its job. Both would do alone.
"""

import difflib
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from ..settings.errors import NotFoundError, SettingsError
from .database import now
from .journal import inserter
from .schedule_tables import Schedule, Slot
from .states import Status
from .tables import Job, Tenant

SUBMITTED, WAITING, SKIPPED, MISSED = "submitted", "waiting", "skipped", "missed"
REPLACED, FAILED = "replaced", "failed"
FINAL = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)

_SHOWN = (
    "id", "tenant", "name", "cron", "timezone", "every_s", "when_new_rows", "when_data_changed", "spec", "missed",
    "overlap", "paused", "created_at", "last_slot", "next_slot", "seen", "looked", "last_error", "last_error_at",
)  # fmt: skip


def create(session: Session, **fields: Any) -> Schedule:
    """Write a schedule down.

    Raises:
        SettingsError: The tenant has one of that name.
    """
    at = now(session)
    insert = inserter(session)
    tenant = insert(Tenant).values(name=fields["tenant"], created_at=at)
    session.execute(tenant.on_conflict_do_nothing(index_elements=["name"]))
    row = {"created_at": at, "updated_at": at, "last_slot": at, **fields}
    made = session.scalar(
        insert(Schedule).values(**row).on_conflict_do_nothing(index_elements=["tenant", "name"]).returning(Schedule.id)
    )
    if made is None:
        raise SettingsError(
            f"there is a schedule {fields['name']} already.",
            hint=f"Take another name, or remove it first: celora schedule remove {fields['name']}.",
        )
    return session.get_one(Schedule, made)


def find(session: Session, tenant: str, name: str) -> Schedule:
    """The schedule of that name.

    Raises:
        NotFoundError: There is none; the message names one that is called alike.
    """
    wanted = select(Schedule).where(Schedule.tenant == tenant, Schedule.name == name)
    found = session.scalars(wanted).one_or_none()
    if found is not None:
        return found
    names = list(session.scalars(select(Schedule.name).where(Schedule.tenant == tenant)))
    near = difflib.get_close_matches(name, names, n=1)
    raise NotFoundError(
        f"there is no schedule {name}" + (f"; did you mean {near[0]}?" if near else "."),
        hint="See `celora schedule list`.",
    )


def listed(session: Session, tenant: str | None = None) -> list[dict[str, Any]]:
    """Every schedule by name, with ``last``: its last slot, as ``recent`` tells it."""
    wanted = select(Schedule).order_by(Schedule.tenant, Schedule.name)
    if tenant is not None:
        wanted = wanted.where(Schedule.tenant == tenant)
    return [
        {**shown(row), "last": next(iter(recent(session, row.id, limit=1)), None)} for row in session.scalars(wanted)
    ]


def shown(schedule: Schedule) -> dict[str, Any]:
    """A schedule's columns as a plain dict."""
    return {name: getattr(schedule, name) for name in _SHOWN}


def recent(session: Session, schedule_id: str, *, limit: int) -> list[dict[str, Any]]:
    """What became of the last slots, the newest first: key, at, outcome, message, and of the job id, status, contest.

    ``contest`` is what the gate of a job said that competed for a champion.
    """
    wanted = select(Slot, Job.status, Job.summary).outerjoin(Job, Job.id == Slot.job_id)
    mine = wanted.where(Slot.schedule_id == schedule_id).order_by(Slot.created_at.desc(), Slot.at.desc())
    return [
        {
            **{name: getattr(slot, name) for name in ("key", "at", "created_at", "outcome", "message", "job_id")},
            "status": status.value if slot.job_id else None,
            "contest": (summary or {}).get("champion"),
        }
        for slot, status, summary in session.execute(mine.limit(limit))
    ]


def to_look_at(session: Session) -> list[str]:
    """Ids of the schedules that a round has to look at: due by the clock, watching data, or with a slot that waits."""
    waiting = select(Slot.schedule_id).where(Slot.outcome == WAITING)
    watching = Schedule.cron.is_(None) & Schedule.every_s.is_(None)
    due = or_(Schedule.next_slot <= now(session), watching, Schedule.id.in_(waiting))
    wanted = select(Schedule.id).where(Schedule.paused.is_(False), due).order_by(Schedule.next_slot, Schedule.id)
    return list(session.scalars(wanted))


def hold(session: Session, schedule_id: str) -> Schedule | None:
    """Take a schedule's row, as it is now, until the transaction ends; None if it is gone."""
    taken = update(Schedule).where(Schedule.id == schedule_id).values(updated_at=now(session)).returning(Schedule)
    return session.scalars(taken.execution_options(populate_existing=True, synchronize_session=False)).one_or_none()


def claim(session: Session, schedule_id: str, key: str, *, at: datetime, outcome: str, message: str) -> Slot | None:
    """Make a slot one's own; None if it was dealt with before."""
    values = {"schedule_id": schedule_id, "key": key, "at": at, "created_at": now(session), "outcome": outcome}
    made = session.scalar(
        inserter(session)(Slot)
        .values(**values, message=message)
        .on_conflict_do_nothing(index_elements=["schedule_id", "key"])
        .returning(Slot.key)
    )
    return session.get_one(Slot, (schedule_id, made)) if made is not None else None


def unfinished(session: Session, schedule_id: str) -> Job | None:
    """The newest job of the schedule that is not over."""
    mine = select(Job).join(Slot, Slot.job_id == Job.id).where(Slot.schedule_id == schedule_id)
    rows = mine.where(Job.status.not_in(FINAL)).order_by(Job.created_at.desc(), Job.id.desc()).limit(1)
    return session.scalars(rows.execution_options(populate_existing=True)).one_or_none()


def waiting(session: Session, schedule_id: str) -> list[Slot]:
    """The slots that wait for their turn, in order."""
    mine = select(Slot).where(Slot.schedule_id == schedule_id, Slot.outcome == WAITING)
    return list(session.scalars(mine.order_by(Slot.created_at, Slot.at, Slot.key)))


def slot_of(session: Session, job_id: str) -> Slot | None:
    """The slot that a job trains."""
    return session.scalars(select(Slot).where(Slot.job_id == job_id)).one_or_none()


def blame(session: Session, schedule_id: str, message: str) -> None:
    """Write down what is wrong with a schedule; the same again is not written again."""
    changed = update(Schedule).where(Schedule.id == schedule_id, func.coalesce(Schedule.last_error, "") != message)
    session.execute(
        changed.values(last_error=message, last_error_at=now(session)).execution_options(synchronize_session=False)
    )
