"""Reads the figures of the queue for monitoring: how long jobs wait, and the shares that tenants use and are due."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..database import now
from ..tables import Job, Tenant, TenantUse
from .waiting import BY_AGE, in_queue

QUANTILES = (0.5, 0.95)


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of the recent use that a tenant had, and the part that its weight gives it; both between 0 and 1."""

    used: float
    due: float


def waiting_ages(session: Session) -> dict[tuple[str, str], dict[float, float]]:
    """Return quantiles of the seconds since waiting jobs were accepted, by tenant and GPU type.

    A quantile is the age of a job (the nearest rank), so that the figure of a single job is its own age.
    """
    at, accepted = now(session), defaultdict[tuple[str, str], list[datetime]](list)
    rows = select(Job.tenant, Job.gpu, Job.created_at).where(in_queue()).with_hint(Job, BY_AGE, "sqlite")
    for tenant, gpu, created_at in session.execute(rows):
        accepted[tenant, gpu].append(created_at)
    return {key: _quantiles(at, sorted(times)) for key, times in accepted.items()}


def shares(session: Session, half_life_s: float) -> dict[str, Share]:
    """Return the shares of the tenants that compete: that have a job which waits or runs.

    Args:
        session: An open session of all tenants.
        half_life_s: Seconds in which use comes to count half.
    """
    at = now(session)
    columns = (TenantUse.tenant, TenantUse.gpu_seconds, TenantUse.at, Tenant.weight)
    rows = session.execute(
        select(*columns).join(Tenant, Tenant.name == TenantUse.tenant).where(TenantUse.competes)
    ).all()
    used = {
        row.tenant: row.gpu_seconds * 0.5 ** (max(0.0, (at - row.at).total_seconds()) / half_life_s) for row in rows
    }
    total, weights = sum(used.values()), sum(row.weight for row in rows)
    return {
        row.tenant: Share(used=used[row.tenant] / total if total else 0.0, due=row.weight / weights) for row in rows
    }


def _quantiles(at: datetime, times: list[datetime]) -> dict[float, float]:
    """Return the ages at each quantile of times in rising order: the oldest job has the highest."""
    ages = [max(0.0, (at - time).total_seconds()) for time in reversed(times)]
    return {each: ages[min(len(ages) - 1, int(each * len(ages)))] for each in QUANTILES}
