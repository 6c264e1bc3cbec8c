"""Reads the standing of the tenants for a round, and keeps their recent use decayed.

A row of use is written in three cases only: its decay is due, its tenant begins to compete, its tenant ceases to. Rows
that a charge holds at the moment are left for the next round, so that a round and a charge never wait for each other.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from ...models.rows import upsert_insert
from ...models.states import Status
from ...models.tables import Job, Tenant, TenantUse
from ...scheduling.fair_share import Shares, decayed, returning
from ...scheduling.records import STANDARD, Account, Holding, Rules
from ...settings.settings import Settings
from ..tenants.admission import storage_reason

DUE = 1 / 64
"""Part of the half-life after which the decay of a row is due; until then added seconds count as if added at ``at``."""


_STANDING = select(
    Tenant.name, Tenant.weight, Tenant.max_gpus, Tenant.max_jobs, Tenant.storage_bytes,
    TenantUse.gpu_seconds, TenantUse.at, TenantUse.competes,
).outerjoin(TenantUse, TenantUse.tenant == Tenant.name)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The tenants as a round sees them.

    Attributes:
        accounts: The standing of each tenant.
        begins: The use with which each tenant competes again that did not compete in the last round.
        ceases: The tenants that compete no longer.
        due: The tenants whose decay is due.
    """

    accounts: Mapping[str, Account]
    begins: Mapping[str, float]
    ceases: Collection[str]
    due: Collection[str]


def read_standing(
    session: Session,
    settings: Settings,
    rules: Rules,
    at: datetime,
    *,
    holdings: Callable[[], Sequence[Holding]],
    at_work: set[str],
    waiting: set[str],
) -> Standing:
    """Read the standing of every tenant.

    Args:
        session: An open session.
        settings: Settings of the installation.
        rules: The operator's choices.
        at: The present time.
        holdings: Reads the jobs that hold a slot, with their times; called where a tenant begins to compete.
        at_work: The tenants that hold a slot.
        waiting: The tenants that have a job in the queue.
    """
    rows = session.execute(_STANDING).all()
    uses = {row.name: row for row in rows if row.at is not None}
    accounts = _accounts(session, settings, rows, waiting)
    for name, row in uses.items():
        used_s = decayed(row.gpu_seconds, (at - row.at).total_seconds(), rules.half_life_s)
        accounts[name] = replace(accounts.get(name, STANDARD), used_s=used_s)
    competing = waiting | at_work
    before = {name for name, row in uses.items() if row.competes}
    begins: dict[str, float] = {}
    if new := competing - before:
        shares = Shares(accounts, holdings(), rules, at)
        levels = [shares.level(name)[0] for name in competing & before]
        for name in new:
            account = accounts.get(name, STANDARD)
            begins[name] = returning(account.used_s, account.weight, levels, rules.credit_s)
            accounts[name] = replace(account, used_s=begins[name])
    late_s = DUE * rules.half_life_s
    due = {name for name, row in uses.items() if row.gpu_seconds > 1 and (at - row.at).total_seconds() > late_s}
    return Standing(accounts=accounts, begins=begins, ceases=before - competing, due=due)


def _accounts(
    session: Session, settings: Settings, rows: Sequence[Row[*tuple[Any, ...]]], waiting: set[str]
) -> dict[str, Account]:
    """Make the accounts of all tenants; what a limit counts is read for those that have the limit and wait."""
    counted = [row.name for row in rows if row.max_jobs is not None and row.name in waiting]
    working = _working(session, counted) if counted else {}
    return {
        row.name: Account(
            weight=row.weight,
            max_gpus=settings.max_gpus_per_tenant if row.max_gpus is None else row.max_gpus,
            blocked=storage_reason(session, row.name, row.storage_bytes) if row.name in waiting else None,
            max_jobs=row.max_jobs,
            working=working.get(row.name, 0),
        )
        for row in rows
    }


def _working(session: Session, tenants: Collection[str]) -> dict[str, int]:
    """Count the jobs of some tenants that are worked on."""
    active = (Job.tenant.in_(tenants), Job.status.in_((Status.QUEUED, Status.RUNNING)))
    counts = session.execute(select(Job.tenant, func.count()).where(*active).group_by(Job.tenant))
    return {tenant: count for tenant, count in counts}  # noqa: C416  (a Row is no tuple to pyright)


def settle_use(session: Session, standing: Standing, rules: Rules, at: datetime) -> None:
    """Write the rows of use that the round changes."""
    names = {*standing.begins, *standing.ceases, *standing.due}
    if not names:
        return
    new = [{"tenant": name, "at": at} for name in standing.begins]
    if new:
        rows = upsert_insert(session, TenantUse).values(new)
        session.execute(rows.on_conflict_do_nothing(index_elements=["tenant"]))
    free = select(TenantUse).where(TenantUse.tenant.in_(names)).with_for_update(skip_locked=True)
    for row in session.scalars(free.execution_options(populate_existing=True)):
        used_s = decayed(row.gpu_seconds, (at - row.at).total_seconds(), rules.half_life_s)
        row.gpu_seconds, row.at = max(used_s, standing.begins.get(row.tenant, 0.0)), at
        row.competes = row.tenant not in standing.ceases and (row.competes or row.tenant in standing.begins)
    session.flush()
