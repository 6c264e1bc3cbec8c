"""Reads the use of tenants by month: from the ledger, and from its charges by user or base model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ..tables import Charge, Job, LedgerMonth
from .use import Use

By = Literal["user", "model"]
GROUPS: tuple[By, ...] = ("user", "model")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The use of a tenant in a month, or the part of one user or base model.

    Attributes:
        tenant: The tenant.
        month: The UTC month.
        spent: The use that was charged.
        held: The use that unfinished jobs hold; nothing where the use is split.
        user: The user; None where the use is not split by user.
        model: The base model; None where the use is not split by base model.
        jobs: The jobs of the part; None where the use is not split.
    """

    tenant: str
    month: str
    spent: Use
    held: Use
    user: str | None = None
    model: str | None = None
    jobs: int | None = None


def usage(
    session: Session, *, tenant: str | None = None, month: str | None = None, by: Sequence[By] = ()
) -> list[Usage]:
    """List the use of one or all tenants, of one or all months, the newest month first."""
    if by:
        return _split(session, tenant, month, by)
    rows = select(LedgerMonth).order_by(LedgerMonth.month.desc(), LedgerMonth.tenant)
    if tenant is not None:
        rows = rows.where(LedgerMonth.tenant == tenant)
    if month is not None:
        rows = rows.where(LedgerMonth.month == month)
    return [
        Usage(
            tenant=row.tenant,
            month=row.month,
            spent=Use(row.spent_ms, row.spent_micros),
            held=Use(row.held_ms, row.held_micros),
        )
        for row in session.scalars(rows)
    ]


def _split(session: Session, tenant: str | None, month: str | None, by: Sequence[By]) -> list[Usage]:
    """Sum the charges of each group; every charge belongs to one, so the sums are the ledger's."""
    columns = {"user": Job.user, "model": Job.spec["base_model"].as_string()}
    groups = [columns[name].label(name) for name in GROUPS if name in by]
    jobs = func.count(Charge.job_id.distinct())
    rows = (
        select(Job.tenant, Charge.month, func.sum(Charge.device_ms), func.sum(Charge.cost_micros), jobs, *groups)
        .join(Job, Job.id == Charge.job_id)
        .group_by(Job.tenant, Charge.month, *groups)
        .order_by(Charge.month.desc(), Job.tenant, func.sum(Charge.cost_micros).desc(), *groups)
    )
    if tenant is not None:
        rows = rows.where(Job.tenant == tenant)
    if month is not None:
        rows = rows.where(Charge.month == month)
    named = [name for name in GROUPS if name in by]
    return [
        Usage(
            tenant=row[0],
            month=row[1],
            spent=Use(int(row[2]), int(row[3])),
            held=Use(),
            jobs=row[4],
            **dict(zip(named, row[5:], strict=True)),
        )
        for row in session.execute(rows)
    ]
