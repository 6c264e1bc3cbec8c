"""Admits jobs within their tenants' limits: at accept, and again before each scheduling round.

A job that is accepted holds the estimate of its use, or holds nothing and waits. Before a round decides, the holds that
have become possible are taken, tenant by tenant, and each other job gets the limit that keeps it from a slot
(``Job.limited``). A job's row is locked before the ledger's; here the ledger's is first, and a job whose row is locked
is left for the next round. The limits of jobs at once and of storage hold for a tenant as a whole: the round itself
applies them (``scheduling.records.Account``).
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, exists, func, or_, select
from sqlalchemy.orm import Session

from ...errors import SettingsError, TenantLimitError
from ...models.database import Database, now
from ...models.events import record_event
from ...models.jobs.limits import LIMIT, limit_waiting
from ...models.scope.scope import Scope
from ...models.states import LIVE, JobClass, Stage, Status
from ...models.tables import Hold, Job, LedgerMonth, Tenant
from ...models.tables.types import JsonObject
from ...models.tenants import ledger
from ...models.tenants.limits import Limits, limits_of, stored_bytes
from ...models.tenants.use import Use, month_of
from ...scheduling import explain
from ...scheduling.explain import Reason
from ...settings.gpus import GpuType, gpu_catalogue
from ...settings.settings import Settings
from .estimates import beyond_budget, from_bytes, from_receipt, training_bytes

MOST_TRIED = 1_000
"""Waiting jobs of one tenant that one round tries to admit."""
MOST_ASKED = 20_000
"""Asking holds that one round reads; those of running jobs among them wait until these jobs do."""
MOST_REFRESHED = 100
"""Waiting jobs of one tenant whose numbers one round brings up to date."""
_ASKING = select(Hold.job_id).where(Hold.asks).limit(MOST_ASKED)


def admit(session: Session, settings: Settings, job_id: str) -> None:
    """Let a job that was just written hold the estimate of its use; a job beyond a limit waits or is refused.

    Raises:
        SettingsError: Its priority is above the tenant's ceiling, or its class is not granted.
        TenantLimitError: It is beyond a limit, and the tenant's rule is to refuse.
    """
    job = session.get_one(Job, job_id)
    limits = limits_of(session, job.tenant)
    if job.priority > limits.max_priority:
        raise SettingsError(
            f"priority: {job.priority} is above {limits.max_priority}, the highest of tenant {job.tenant}.",
            hint="Give a lower one.",
        )
    check_class(job.job_class, limits, job.tenant)
    types = gpu_catalogue(settings.gpus)
    use, basis = _estimate(session, job, types)
    _mark_budget(session, job, use, types)
    hold = ledger.want(session, job, use, basis)
    month = ledger.lock_month(session, job.tenant, job.updated_at)
    reason = _of_the_month(limits, month, hold)
    if limits.over == "refuse" and (refusal := _of_the_tenant(session, job, limits) or reason) is not None:
        raise TenantLimitError(
            f"tenant {job.tenant}: {refusal.sentence()}.",
            hint="Submit it again when there is room.",
            facts=_facts(refusal),
        )
    ledger.take_hold(session, month, limits, hold)
    hold.asks = False
    if reason is not None:
        job.limited, job.wait_reason = _facts(reason), reason.sentence()
    session.flush()


def mark_budget(session: Session, settings: Settings, job_id: str) -> None:
    """Record a warning if a job's budget is below the estimate of its use."""
    job, types = session.get_one(Job, job_id), gpu_catalogue(settings.gpus)
    _mark_budget(session, job, _estimate(session, job, types)[0], types)


def _mark_budget(session: Session, job: Job, use: Use, types: Mapping[str, GpuType]) -> None:
    if (short := beyond_budget(job, use, types)) is None:
        return
    cost, budget = short
    facts = {"cost": round(cost, 6), "budget": budget}
    words = f"its budget of {budget:g} is below the estimate of about {cost:.4g}; it will checkpoint and pause"
    record_event(session, job.id, job.attempt, "warning", "budget_below_estimate", words, facts)


def check_month(session: Session, tenant: str) -> None:
    """Check that something is left of the tenant's month, for work that no job holds beforehand.

    Raises:
        TenantLimitError: Nothing is left.
    """
    at = now(session)
    row = session.get(LedgerMonth, (tenant, month_of(at)))
    month = row or LedgerMonth(spent_ms=0, spent_micros=0, held_ms=0, held_micros=0)
    lacks = limits_of(session, tenant).left(month, Use()).lacks(Use())
    if lacks is not None:
        what = "device minutes" if lacks == "gpu_minutes" else "budget"
        raise TenantLimitError(
            f"tenant {tenant}: nothing is left of the {what} of this month.", hint="Try again when there is room."
        )


def check_class(job_class: JobClass, limits: Limits, tenant: str) -> None:
    """Check that a tenant may submit jobs of a class.

    Raises:
        SettingsError: The class is not granted.
    """
    if job_class not in limits.granted:
        raise SettingsError(
            f"job_class: {job_class} is not granted to tenant {tenant}.",
            hint=f"Use {' or '.join(limits.granted)}; an operator grants others with `celora tenant set --classes`.",
        )


def apply_limits(database: Database, settings: Settings) -> None:
    """Let waiting jobs hold their estimates where the limits allow it now, and record what keeps the others.

    A tenant is looked at if one of its holds asks, or if its month has changed since its waiting jobs were compared
    with it. Both are found by an index, so a round in which nothing changed reads no job.
    """
    types = gpu_catalogue(settings.gpus)
    with database.session(Scope.everything) as session:
        asking = _asking(session)
        tenants = sorted({*asking, *_tenants_to_judge(session)})
    for tenant in tenants:
        with database.transaction(Scope.everything) as session:
            _judge(session, types, tenant, asking.get(tenant, []))


def ask_for_missing(session: Session, job_ids: Iterable[str]) -> list[str]:
    """Write the hold of each job that has none, since a program of an earlier version accepted it.

    Returns:
        The jobs whose holds the next round takes first.
    """
    ids = list(job_ids)
    if not ids:
        return []
    without = select(Job).where(Job.id.in_(ids), ~exists().where(Hold.job_id == Job.id)).order_by(Job.id)
    jobs = session.scalars(without).all()
    for job in jobs:
        ledger.want(session, job, Use(), ledger.BYTES)
    return [job.id for job in jobs]


def _judge(session: Session, types: Mapping[str, GpuType], tenant: str, asking: Sequence[str]) -> None:
    """Take the holds of one tenant that ask, and compare its other waiting jobs with its month if that changed."""
    month, limits = ledger.lock_month(session, tenant, now(session)), limits_of(session, tenant)
    # A job that was cancelled meanwhile wants nothing; one whose row is locked is asked in the next round.
    wanted = select(Job).where(Job.id.in_(asking), *_waiting()).order_by(*_turn())
    for job in session.scalars(wanted.with_for_update(skip_locked=True)).all():
        hold = session.get(Hold, job.id, populate_existing=True)
        if hold is None or job.stage is not Stage.PREPARE:
            hold = ledger.want(session, job, *_estimate(session, job, types))
        _take(session, month, limits, job, hold)
    row = session.get_one(Tenant, tenant)
    if row.judged != _seen(limits, month.month, _taken(month)) and _judge_limited(session, month, limits):
        row.judged = _seen(limits, month.month, _taken(month))


def _judge_limited(session: Session, month: LedgerMonth, limits: Limits) -> bool:
    """Take the holds that fit the month now, and bring the numbers of the first other jobs up to date.

    Returns:
        False if more jobs may fit than one round takes.
    """
    marked = Job.limited.is_not(None) | (Job.pause_cause == LIMIT)
    line = select(Job, Hold).join(Hold, Hold.job_id == Job.id).where(Job.tenant == month.tenant, marked, *_waiting())
    line = line.order_by(*_turn()).with_for_update(of=Job, skip_locked=True)
    left = limits.left(month, Use())
    fits = [Hold.held_ms == 0]
    fits += [] if left.device_ms is None else [Hold.wanted_ms <= (left.device_ms or -1)]
    fits += [] if left.cost_micros is None else [Hold.wanted_micros <= (left.cost_micros or -1)]
    able = session.execute(line.where(or_(Hold.held_ms > 0, and_(*fits))).limit(MOST_TRIED)).all()
    for job, hold in able:
        _take(session, month, limits, job, hold)
    for job, hold in session.execute(line.limit(MOST_REFRESHED)).all():
        _take(session, month, limits, job, hold)
    return len(able) < MOST_TRIED


def _take(session: Session, month: LedgerMonth, limits: Limits, job: Job, hold: Hold) -> None:
    """Hold a job's estimate, or record the limit that keeps it from a slot; a row that stays alike is not written."""
    ledger.take_hold(session, month, limits, hold)
    hold.asks = False
    session.flush()
    reason = None if hold.held_ms else _of_the_month(limits, month, hold)
    found = None if reason is None else _facts(reason)
    if found != job.limited or (found is None and job.pause_cause == LIMIT):
        limit_waiting(session, job.id, found, reason.sentence() if reason else "")


def _estimate(session: Session, job: Job, types: Mapping[str, GpuType]) -> tuple[Use, str]:
    """Estimate a job's use, and name the basis of the estimate."""
    receipt = from_receipt(job, types) if job.stage is not Stage.PREPARE else None
    if receipt is not None:
        return receipt, ledger.RECEIPT
    return from_bytes(job, training_bytes(session, job), types), ledger.BYTES


def _asking(session: Session) -> dict[str, list[str]]:
    """List by tenant the pending jobs whose holds ask; the first in turn first, as many as a round tries."""
    asking = list(session.scalars(_ASKING))
    found: dict[str, list[str]] = {}
    if not asking:
        return found
    waiting = select(Job.tenant, Job.id).where(Job.id.in_(asking), *_waiting()).order_by(*_turn())
    for tenant, job_id in session.execute(waiting):
        line = found.setdefault(tenant, [])
        if len(line) < MOST_TRIED:
            line.append(job_id)
    return found


def _waiting() -> tuple[ColumnElement[bool], ...]:
    """Build the condition of a pending job that waits for a slot, its tenant's limits apart."""
    return (
        Job.status == Status.PENDING,
        Job.stage != Stage.PUBLISH,
        or_(Job.paused.is_(False), Job.pause_cause == LIMIT),
    )


def _turn() -> tuple[Any, ...]:
    return (Job.recovered.desc(), Job.priority.desc(), Job.created_at, Job.id)


def _tenants_to_judge(session: Session) -> list[str]:
    """List the tenants with waiting jobs whose month or limits have changed since these were compared."""
    month = month_of(now(session))
    return [
        row.name
        for row, used_ms, micros in session.execute(_month_statement(), {"month": month})
        if row.judged != _seen(Limits.of(row), month, Use(used_ms, micros))
    ]


@cache
def _month_statement() -> Select[Tenant, int, int]:
    """Build the search for tenants with limits of the month and waiting jobs, with what they used and hold."""
    of_month = and_(LedgerMonth.tenant == Tenant.name, LedgerMonth.month == bindparam("month"))
    waits = exists().where(Job.tenant == Tenant.name, Job.status == Status.PENDING)
    limited = Tenant.gpu_minutes.is_not(None) | Tenant.budget.is_not(None) | Tenant.judged.is_not(None)
    device_ms = func.coalesce(LedgerMonth.spent_ms + LedgerMonth.held_ms, 0)
    cost_micros = func.coalesce(LedgerMonth.spent_micros + LedgerMonth.held_micros, 0)
    rows = select(Tenant, device_ms, cost_micros).outerjoin(LedgerMonth, of_month)
    return rows.where(limited, waits).order_by(Tenant.name)


def _seen(limits: Limits, month: str, taken: Use) -> str | None:
    """Return the state of a month as ``Tenant.judged`` keeps it; None where the tenant has no limit of the month."""
    if limits.gpu_minutes is None and limits.budget is None:
        return None
    return f"{month} {limits.gpu_minutes} {limits.budget} {taken.device_ms} {taken.cost_micros}"


def _taken(month: LedgerMonth) -> Use:
    return Use(month.spent_ms + month.held_ms, month.spent_micros + month.held_micros)


def _of_the_tenant(session: Session, job: Job, limits: Limits) -> Reason | None:
    """Return the reason to refuse a new job; the ledger's row is locked, so no other is counted at the same time."""
    if limits.max_gpus == 0:
        return explain.quota(job.tenant, 0)
    if limits.max_jobs is not None:
        unfinished = _count(session, job.tenant, LIVE) - 1
        if unfinished >= limits.max_jobs:
            return explain.max_jobs(limit=limits.max_jobs, working=unfinished)
    return storage_reason(session, job.tenant, limits.storage_bytes)


def _of_the_month(limits: Limits, month: LedgerMonth, hold: Hold) -> Reason | None:
    """Return the reason of a job that the month has no room for, with the numbers."""
    wanted, own = ledger.wanted_by(hold), ledger.held_by(hold)
    lacks = limits.left(month, own).lacks(wanted)
    spent, held = Use(month.spent_ms, month.spent_micros), Use(month.held_ms, month.held_micros) - own
    if lacks == "gpu_minutes":
        return explain.gpu_minutes(
            limit=limits.gpu_minutes or 0, spent=spent.minutes, held=held.minutes, wanted=wanted.minutes
        )
    if lacks == "budget":
        return explain.budget(limit=limits.budget or 0, spent=spent.cost, held=held.cost, wanted=wanted.cost)
    return None


def storage_reason(session: Session, tenant: str, limit_bytes: int | None) -> Reason | None:
    """Return the reason of a tenant that stores as much as it may."""
    if limit_bytes is None:
        return None
    stored = stored_bytes(session, tenant)
    return explain.storage(limit_bytes, stored) if stored >= limit_bytes else None


def _count(session: Session, tenant: str, states: Sequence[Status]) -> int:
    counted = select(func.count()).select_from(Job).where(Job.tenant == tenant, Job.status.in_(states))
    return session.scalar(counted) or 0


def _facts(reason: Reason) -> JsonObject:
    """Return a reason as the record keeps it in ``Job.limited``; ``explain.limited`` reads it."""
    return {"code": reason.code.value, **reason.facts}
