"""Reads the books of tenants for people and programs: the use of a month, and the audit."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ...errors import NotFoundError, SettingsError
from ...models.database import get_database
from ...models.tables import AuditEntry, Tenant
from ...models.tables.types import JsonObject
from ...models.tenants.audit import OPERATOR, list_audit
from ...models.tenants.usage import GROUPS, By, Usage, usage
from ...models.tenants.use import check_month
from .scopes import scope_of

LARGEST_ID = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class AuditLine:
    """A change, as it may be shown.

    Attributes:
        id: The number of the row; rows are numbered in the order of their writing.
        at: When.
        tenant: The tenant whose object it is; None for one of the installation.
        actor: Who made the change; ``operator`` alone where a tenant reads it.
        key_id: The key that was used; None for an operator.
        action: A stable word, such as ``job.cancel``.
        object: The object's name or id.
        address: From where; empty where a tenant reads the change of an operator.
        before: The facts that changed, before.
        after: The facts after the change.
    """

    id: int
    at: datetime
    tenant: str | None
    actor: str
    key_id: str | None
    action: str
    object: str
    address: str
    before: JsonObject | None
    after: JsonObject | None


def read_usage(*, tenant: str | None = None, month: str | None = None, by: Sequence[str] = ()) -> list[Usage]:
    """Lists the use of a tenant, or of all, in a month, or in all; the newest month first.

    Args:
        tenant: The tenant.
        month: The UTC month, as in ``2026-11``.
        by: ``user``, ``model`` or both: splits the use.

    Raises:
        SettingsError: The month is none, or the use cannot be split so.
        NotFoundError: There is no such tenant.
    """
    groups: list[By] = [name for name in GROUPS if name in by]
    if unknown := [name for name in by if name not in GROUPS]:
        raise SettingsError(f"use is not split by {unknown[0][:40]!r}.", hint=f"Use {' or '.join(GROUPS)}.")
    with get_database().session(scope_of(tenant)) as session:
        if tenant is not None:
            _require(session.get(Tenant, tenant), tenant)
        return usage(session, tenant=tenant, month=check_month(month) if month is not None else None, by=groups)


def read_audit(
    *,
    tenant: str | None = None,
    target: str | None = None,
    action: str | None = None,
    before_id: int | None = None,
    limit: int = 50,
    as_tenant: bool = False,
) -> list[AuditLine]:
    """Lists changes, the newest first.

    Args:
        tenant: Only the changes of this tenant's objects.
        target: Only the changes of this object.
        action: Only this action, or those of a kind: ``job`` finds ``job.cancel``.
        before_id: Only changes older than this one, for the next page.
        limit: The largest number of changes.
        as_tenant: True where the tenant itself reads: operators have no name and no address then.

    Raises:
        NotFoundError: There is no such tenant, and no change names one.
    """
    with get_database().session(scope_of(tenant)) as session:
        rows = list_audit(
            session,
            tenant=tenant,
            target=target,
            action=action,
            before_id=None if before_id is None else min(before_id, LARGEST_ID),
            limit=max(1, min(limit, 1000)),
        )
        if tenant is not None and not rows:
            _require(session.get(Tenant, tenant), tenant)
        return [_line(row, as_tenant=as_tenant) for row in rows]


def _line(row: AuditEntry, *, as_tenant: bool) -> AuditLine:
    known = {name: getattr(row, name) for name in AuditLine.__dataclass_fields__}
    if as_tenant and row.actor.startswith(OPERATOR):
        known |= {"actor": OPERATOR, "address": ""}
    return AuditLine(**known)


def _require(row: Tenant | None, name: str) -> None:
    if row is None:
        raise NotFoundError(f"there is no tenant {name[:64]!r}.", hint="Check the name.")
