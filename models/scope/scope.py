"""Defines the scope of a session: the tenant whose rows it may reach, and the tables that have an owner.

Every mapped class stands in exactly one of ``OWNED``, ``CHILDREN`` and ``OPERATORS``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Self, cast

from ..tables import (
    Adapter,
    Announcement,
    ApiKey,
    Attempt,
    AuditEntry,
    Beacon,
    Champion,
    ChampionEvent,
    Charge,
    Checkpoint,
    DataCheck,
    Dataset,
    Delivery,
    Event,
    File,
    Hold,
    IdempotencyKey,
    Job,
    JobDataset,
    JobLabel,
    JobRequest,
    LaneReason,
    LedgerMonth,
    MeasuredRun,
    MetricPoint,
    Rating,
    Receiver,
    SafeBatch,
    Schedule,
    ScheduleRun,
    Table,
    Tenant,
    TenantUse,
    Upload,
    UploadPart,
    Worker,
)

OWNED: Mapping[type[Table], str] = {
    Adapter: "tenant",
    ApiKey: "tenant",
    AuditEntry: "tenant",
    Champion: "tenant",
    ChampionEvent: "tenant",
    DataCheck: "tenant",
    Dataset: "tenant",
    File: "tenant",
    IdempotencyKey: "tenant",
    Job: "tenant",
    JobLabel: "tenant",
    JobRequest: "tenant",
    LaneReason: "tenant",
    LedgerMonth: "tenant",
    Rating: "tenant",
    Receiver: "tenant",
    Schedule: "tenant",
    Tenant: "name",
    TenantUse: "tenant",
    Upload: "tenant",
}
"""Tables whose rows belong to a tenant, with the column that names the tenant."""
CHILDREN: Mapping[type[Table], tuple[str, type[Table]]] = {
    Announcement: ("job_id", Job),
    Attempt: ("job_id", Job),
    Charge: ("job_id", Job),
    Checkpoint: ("job_id", Job),
    Delivery: ("receiver_id", Receiver),
    Event: ("job_id", Job),
    Hold: ("job_id", Job),
    JobDataset: ("job_id", Job),
    MeasuredRun: ("job_id", Job),
    MetricPoint: ("job_id", Job),
    ScheduleRun: ("schedule_id", Schedule),
    UploadPart: ("upload_id", Upload),
}
"""Tables whose rows belong to the tenant of their parent, with the column that names the parent."""
OPERATORS: frozenset[type[Table]] = frozenset({Beacon, SafeBatch, Worker})
"""Tables that no tenant owns; a session of a tenant refuses them."""


class ScopeError(RuntimeError):
    """A statement in a session of one tenant that could reach rows of another."""


@dataclass(frozen=True)
class Scope:
    """The rows that a session may reach.

    Attributes:
        tenant: The tenant that owns the rows; None for the rows of all tenants.
    """

    tenant: str | None
    everything: ClassVar["Scope"]
    """All rows: for workers, beat, and commands of operators."""

    @classmethod
    def of(cls, tenant: str) -> Self:
        """Return the scope of one tenant."""
        if not tenant:
            raise ScopeError("a scope needs the name of its tenant")
        return cls(tenant)


Scope.everything = Scope(None)


def parent_key(parent: type[Table]) -> Any:
    """Return the column that the children of a table refer to."""
    return cast("Any", parent).id


def owner_column(table: type[Table]) -> str:
    """Return the name of the column that holds the owner of a row of a limited table."""
    return OWNED[table] if table in OWNED else CHILDREN[table][0]


def limited_class(table: Any) -> type[Table] | None:
    """Return the mapped class of a core table; None for a table that stands in no list."""
    tables = (one.class_ for one in Table.registry.mappers if one.local_table.description == table.name)
    found = next(tables, None)
    return found if found in OWNED or found in CHILDREN or found in OPERATORS else None


def refuse(tenant: str, why: str) -> NoReturn:
    """Raise the ``ScopeError`` of a statement in a tenant's session."""
    raise ScopeError(f"a session of the tenant {tenant} refuses a statement: {why}")
