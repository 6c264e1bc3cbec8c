"""Sets and shows the limits of tenants, with what is used of them now."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ...errors import NotFoundError, SettingsError, did_you_mean
from ...models.database import get_database, now
from ...models.scope.scope import Scope
from ...models.states import LIVE, Status
from ...models.tables import Job, LedgerMonth, Tenant
from ...models.tenants.audit import current_actor, record_audit
from ...models.tenants.limits import Limits, check_tenant_name, set_limits, stored_bytes
from ...models.tenants.use import MICROS, MINUTE_MS, Use, month_of
from ...workers.messages import request_tick

Limit = int | float | str | None


@dataclass(frozen=True, kw_only=True)
class TenantView:
    """A tenant, its limits, and what is used of them.

    Attributes:
        name: Its name.
        created_at: When it was first used.
        limits: Its limits.
        month: The present UTC month.
        spent: What was charged in the month.
        held: What unfinished jobs hold.
        unfinished: Jobs that have not ended.
        working: Jobs that are worked on.
        stored_bytes: Bytes of files, datasets, checkpoints and adapters.
    """

    name: str
    created_at: datetime
    limits: Limits
    month: str
    spent: Use
    held: Use
    unfinished: int
    working: int
    stored_bytes: int


def set_tenant(name: str, changes: Mapping[str, Limit]) -> TenantView:
    """Sets limits of a tenant, which is made where it is missing; jobs that waited for room go on where there is some.

    Args:
        name: The tenant.
        changes: Limits by the names of ``Limits``; None lifts one, 0 means that nothing may be used.

    Raises:
        SettingsError: A name has a wrong form, a limit is out of range, or lies below what is used this month.
    """
    tenant = check_tenant_name(name)
    with get_database().transaction(Scope.of(tenant)) as session:
        row = session.get(Tenant, tenant)
        before = Limits() if row is None else Limits.of(row)
        _check_used(session, tenant, changes)
        after = set_limits(session, tenant, changes)
        old, new = ({each: getattr(one, each) for each in changes} for one in (before, after))
        record_audit(session, current_actor(), "tenant.set", tenant, old, new, tenant=tenant)
        view = _view(session, session.get_one(Tenant, tenant))
    request_tick()
    return view


def show_tenant(name: str) -> TenantView:
    """Shows a tenant.

    Raises:
        NotFoundError: There is no such tenant.
    """
    with get_database().session(Scope.everything) as session:
        row = session.get(Tenant, name)
        if row is None:
            names = list(session.scalars(select(Tenant.name)))
            raise NotFoundError(
                f"there is no tenant {name[:64]!r}" + did_you_mean(name[:64], names), hint="See `celora tenant list`."
            )
        return _view(session, row)


def is_known(session: Session, name: str) -> bool:
    """Return whether a tenant has used the installation yet."""
    return session.get(Tenant, name) is not None


def list_tenants() -> list[TenantView]:
    """Lists the tenants by name."""
    with get_database().session(Scope.everything) as session:
        return [_view(session, row) for row in session.scalars(select(Tenant).order_by(Tenant.name)).all()]


def as_data(view: TenantView) -> dict[str, object]:
    """Return a tenant as programs read it: one flat object, time in minutes and money in the currency."""
    return {
        "name": view.name,
        "created_at": view.created_at,
        **asdict(view.limits),
        "month": view.month,
        "used_gpu_minutes": view.spent.minutes,
        "used_budget": view.spent.cost,
        "held_gpu_minutes": view.held.minutes,
        "held_budget": view.held.cost,
        "jobs": view.unfinished,
        "jobs_at_work": view.working,
        "stored_bytes": view.stored_bytes,
    }


def _check_used(session: Session, tenant: str, changes: Mapping[str, Limit]) -> None:
    """Refuse a limit below what is used of it already; 0 stands, since it says that nothing more may be used."""
    spent = _spent(session, tenant)[0]
    used = {"budget": (spent.cost_micros, MICROS), "gpu_minutes": (spent.device_ms, MINUTE_MS)}
    for name, (count, unit) in used.items():
        limit = changes.get(name)
        if isinstance(limit, int | float) and 0 < limit * unit < count:
            raise SettingsError(
                f"--{name.replace('_', '-')}: {limit:g} is below the {count / unit:.4g} that tenant {tenant} has used "
                "this month.",
                hint="Give a larger one, or 0 for no further use.",
            )


def _view(session: Session, row: Tenant) -> TenantView:
    spent, held = _spent(session, row.name)
    unfinished = (Job.tenant == row.name, Job.status.in_(LIVE))
    counts = dict(session.execute(select(Job.status, func.count()).where(*unfinished).group_by(Job.status)).all())
    return TenantView(
        name=row.name,
        created_at=row.created_at,
        limits=Limits.of(row),
        month=month_of(now(session)),
        spent=spent,
        held=held,
        unfinished=sum(counts.values()),
        working=sum(counts.get(status, 0) for status in (Status.QUEUED, Status.RUNNING)),
        stored_bytes=stored_bytes(session, row.name),
    )


def _spent(session: Session, tenant: str) -> tuple[Use, Use]:
    """Return what a tenant was charged this month, and what its unfinished jobs hold."""
    month = session.get(LedgerMonth, (tenant, month_of(now(session))))
    if month is None:
        return Use(), Use()
    return Use(month.spent_ms, month.spent_micros), Use(month.held_ms, month.held_micros)
