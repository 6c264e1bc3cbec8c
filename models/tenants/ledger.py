"""Keeps the ledger: a job's hold when it is accepted, its charges while it is worked on, its settlement at the end.

A tenant has one row a UTC month. Whoever changes a hold or a charge locks the present month's row first
(``lock_month``) and reads the hold after it, so two processes never give the same money away. The order of locks is
job, then ledger; a transaction that holds a ledger row locks no job. The charge of a job is the difference between its
own count (``Job.gpu_seconds``, ``Job.cost``) and what is settled, so a charge that a worker of an older version left
out is made up for by the next one, and the sums agree to the last unit.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, exists, select, update
from sqlalchemy.orm import Session

from ..rows import upsert_insert
from ..states import Stage
from ..tables import Charge, Hold, Job, LedgerMonth
from .limits import Limits, limits_of
from .use import Use, month_of, split_by_month

LEAST_MS = 60_000
"""The shortest hold, a minute."""
BYTES, RECEIPT = "bytes", "receipt"
"""The bases of an estimate: the size of the data before ``prepare``, and the receipt after it."""


def lock_month(session: Session, tenant: str, at: datetime) -> LedgerMonth:
    """Lock a tenant's row of the month until the commit; a new month takes over the holds of the months before."""
    month = month_of(at)
    new = upsert_insert(session, LedgerMonth).values(tenant=tenant, month=month, updated_at=at)
    made = session.scalar(new.on_conflict_do_nothing(index_elements=["tenant", "month"]).returning(LedgerMonth.month))
    row = _locked(session, tenant, month, at)
    if made is not None:
        _carry_over(session, row, at)
    return row


def held_by(hold: Hold) -> Use:
    """Return what a job holds."""
    return Use(hold.held_ms, hold.held_micros)


def wanted_by(hold: Hold) -> Use:
    """Return the estimate that a job wants to hold."""
    return Use(hold.wanted_ms, hold.wanted_micros)


def want(session: Session, job: Job, use: Use, basis: str) -> Hold:
    """Record the estimate of a job's use, which it holds as soon as its tenant's limits allow it."""
    hold = session.get(Hold, job.id, populate_existing=True)
    if hold is None:
        hold = Hold(job_id=job.id, month=month_of(job.updated_at), held_ms=0, held_micros=0, settled_ms=0,
                    settled_micros=0)  # fmt: skip
        session.add(hold)
    wanted = use.most(Use(LEAST_MS))
    hold.wanted_ms, hold.wanted_micros, hold.basis, hold.updated_at = (
        wanted.device_ms, wanted.cost_micros, basis, job.updated_at,
    )  # fmt: skip
    session.flush()
    return hold


def take_hold(session: Session, month: LedgerMonth, limits: Limits, hold: Hold) -> str | None:
    """Hold a job's estimate in place of what it holds, if the limits allow it.

    Args:
        session: An open session that holds the month's row (``lock_month``).
        month: The present month's row.
        limits: The tenant's.
        hold: The job's, read after the lock.

    Returns:
        None if it is held; else the name of the limit that it would break, and the job holds nothing.
    """
    lacks = limits.left(month, held_by(hold)).lacks(wanted_by(hold))
    _set_held(session, month, hold, Use() if lacks else wanted_by(hold))
    return lacks


def grow(session: Session, job: Job, running: Use, ahead: Use) -> str | None:
    """Let a running job hold what it used since its last charge, and some of what lies ahead.

    Args:
        session: An open session that holds the job's row.
        job: A job that runs on a device.
        running: Its use since its last charge.
        ahead: Its use until the next renewals of its lease.

    Returns:
        None; or the name of the tenant's limit that the job has reached.
    """
    hold = session.get(Hold, job.id, populate_existing=True)
    if hold is not None and held_by(hold).least(running) == running:
        return None
    month = lock_month(session, job.tenant, job.updated_at)
    hold = session.get(Hold, job.id, populate_existing=True) or want(session, job, running + ahead, BYTES)
    left = limits_of(session, job.tenant).left(month, held_by(hold))
    lacks = left.lacks(running)
    _set_held(session, month, hold, left.bounded(running + ahead).most(held_by(hold)))
    return lacks


def settle(session: Session, job: Job, began: datetime | None = None, ended: datetime | None = None) -> None:
    """Charge a job's use since its last charge to the months in which it was used, and take it off the job's hold.

    Args:
        session: An open session that holds the job's row.
        job: The job, its own count raised already.
        began: The start of the use; its end where it is unknown.
        ended: The end of the use; now unless given.
    """
    ended = ended or job.updated_at
    hold = session.get(Hold, job.id, populate_existing=True)
    used = Use.of(job.gpu_seconds or 0.0, job.cost or 0.0)
    if hold is not None and used == Use(hold.settled_ms, hold.settled_micros):
        return
    if hold is None and not used:
        return
    present = lock_month(session, job.tenant, job.updated_at)
    hold = session.get(Hold, job.id, populate_existing=True) or want(session, job, Use(), BYTES)
    delta = used - Use(hold.settled_ms, hold.settled_micros)
    _spend(session, job, present, delta, (min(began or ended, ended), ended))
    hold.settled_ms, hold.settled_micros = used.device_ms, used.cost_micros
    _set_held(session, present, hold, held_by(hold) - held_by(hold).least(delta.most(Use())))


def charge_ended(session: Session, job: Job, use: Use, began: datetime, ended: datetime) -> None:
    """Charge the use of an ended job, which holds nothing any more: another evaluation of it.

    Args:
        session: An open session that holds the job's row.
        job: The job, its own count raised already.
        use: The further use.
        began: The start of the use.
        ended: The end of the use.
    """
    if use:
        _spend(session, job, lock_month(session, job.tenant, job.updated_at), use, (min(began, ended), ended))
        session.flush()


def estimated() -> ColumnElement[bool]:
    """Build the condition of a job that holds, once it is prepared, the estimate of its receipt.

    A round that began before the end of ``prepare`` took the estimate by bytes alone; the next round takes the other.
    A job that has only to be published uses no device, and no round estimates it any more.
    """
    needs_none = Job.prepared.is_(None) | (Job.stage == Stage.PUBLISH)
    return needs_none | ~exists().where(Hold.job_id == Job.id, Hold.asks)


def release(session: Session, job: Job) -> None:
    """Give back what a job holds, since it is paused; it holds anew (``ask``) before it goes on."""
    hold = session.get(Hold, job.id, populate_existing=True)
    if hold is None:
        return
    if held_by(hold):
        month = lock_month(session, job.tenant, job.updated_at)
        session.refresh(hold)
        _set_held(session, month, hold, Use())
    hold.asks = False
    session.flush()


def ask(session: Session, job: Job) -> None:
    """Request that the next scheduling round estimates a job's use anew, and holds it."""
    asking = update(Hold).where(Hold.job_id == job.id).values(asks=True)
    session.execute(asking)


def close(session: Session, job: Job) -> None:
    """Charge the rest of an ended job and remove its hold."""
    settle(session, job)
    release(session, job)
    hold = session.get(Hold, job.id)
    if hold is not None:
        session.delete(hold)
        session.flush()


def _set_held(session: Session, month: LedgerMonth, hold: Hold, use: Use) -> None:
    """Change what a job holds, in its row and in the present month's; a hold of an earlier month moves here."""
    before, there = held_by(hold), month
    if use == before and hold.month == month.month:
        return
    if hold.month != month.month:
        there = _row_of(session, month.tenant, hold.month, month.updated_at)
        hold.month = month.month
    there.held_ms, there.held_micros = there.held_ms - before.device_ms, there.held_micros - before.cost_micros
    month.held_ms, month.held_micros = month.held_ms + use.device_ms, month.held_micros + use.cost_micros
    hold.held_ms, hold.held_micros, hold.updated_at = use.device_ms, use.cost_micros, month.updated_at
    hold.asks = hold.asks or use.device_ms < LEAST_MS
    session.flush()


def _spend(session: Session, job: Job, present: LedgerMonth, use: Use, span: tuple[datetime, datetime]) -> None:
    """Charge a use to the months of its time span; the present month's row is locked."""
    for month, part in split_by_month(*span, use):
        row = present if month == present.month else _row_of(session, job.tenant, month, job.updated_at)
        row.spent_ms, row.spent_micros = row.spent_ms + part.device_ms, row.spent_micros + part.cost_micros
        _charge(session, job, month, part)


def _charge(session: Session, job: Job, month: str, part: Use) -> None:
    row = session.get(Charge, (job.id, job.attempt, month))
    if row is None:
        row = Charge(job_id=job.id, attempt=job.attempt, month=month, device_ms=0, cost_micros=0)
        session.add(row)
    row.device_ms, row.cost_micros, row.at = (
        row.device_ms + part.device_ms, row.cost_micros + part.cost_micros, job.updated_at,
    )  # fmt: skip


def _locked(session: Session, tenant: str, month: str, at: datetime) -> LedgerMonth:
    """Lock a row by an update, which both databases can do, and read it as it is now."""
    locked = (
        update(LedgerMonth)
        .where(LedgerMonth.tenant == tenant, LedgerMonth.month == month)
        .values(updated_at=at)
        .returning(LedgerMonth)
        .execution_options(populate_existing=True, synchronize_session=False)
    )
    return session.scalars(locked).one()


def _row_of(session: Session, tenant: str, month: str, at: datetime) -> LedgerMonth:
    """Lock the row of another month than the present one; it is made where it is missing."""
    new = upsert_insert(session, LedgerMonth).values(tenant=tenant, month=month, updated_at=at)
    session.execute(new.on_conflict_do_nothing(index_elements=["tenant", "month"]))
    return _locked(session, tenant, month, at)


def _carry_over(session: Session, row: LedgerMonth, at: datetime) -> None:
    """Move the holds of the months before into a month that has just begun."""
    earlier = select(LedgerMonth.month).where(
        LedgerMonth.tenant == row.tenant,
        LedgerMonth.month < row.month,
        (LedgerMonth.held_ms != 0) | (LedgerMonth.held_micros != 0),
    )
    for month in list(session.scalars(earlier.order_by(LedgerMonth.month))):
        old = _locked(session, row.tenant, month, at)
        row.held_ms, row.held_micros = row.held_ms + old.held_ms, row.held_micros + old.held_micros
        old.held_ms = old.held_micros = 0
        jobs = select(Job.id).where(Job.tenant == row.tenant)
        moved = update(Hold).where(Hold.month == month, Hold.job_id.in_(jobs)).values(month=row.month)
        session.execute(moved.execution_options(synchronize_session=False))
    session.flush()
