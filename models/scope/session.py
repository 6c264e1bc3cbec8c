"""Limits a SQLAlchemy session to the rows of one tenant.

A scope is given to ``Database.session`` and ``Database.transaction``. In a session of one tenant every ORM statement
gets the tenant's criteria (SQLAlchemy's ``do_orm_execute`` event and ``with_loader_criteria``): rows that have a tenant
by their own column, rows of a job or a schedule by their parent. Rows of another tenant can be neither read, changed,
deleted nor written; a row that is read by its key appears as missing. Statements that these criteria cannot reach are
refused with a ``ScopeError``: text and Core statements, the raw connection, bulk methods, inserts of another tenant's
rows, and tables that belong to the operator. A ``ScopeError`` is a fault of the program, never of its user.
"""

from functools import lru_cache
from typing import Any, cast

from sqlalchemy import ColumnElement, Connection, Insert, Select, Update, event, inspect, select
from sqlalchemy.orm import ORMExecuteState, Session, UOWTransaction, with_loader_criteria

from ..tables import Table
from .scope import CHILDREN, OPERATORS, OWNED, Scope, ScopeError, owner_column, parent_key, refuse
from .statements import check_insert, check_owners, check_parts, check_update

SCOPE = "celora_scope"
"""The key of the scope in ``Session.info``."""
KEPT = "celora_kept"
"""The execution option of a statement that is built once and executed often, its values given with each execution."""
MOST_CHECKED = 4096


class ScopedSession(Session):
    """A session that refuses the ways around its scope that are no ORM statement."""

    @property
    def tenant(self) -> str | None:
        """The tenant whose rows the session reaches; None for all."""
        scope: Scope = self.info[SCOPE]
        return scope.tenant

    def connection(self, *args: Any, **options: Any) -> Connection:
        """Return the connection of an unlimited session; a tenant's session refuses, since SQL on it has no scope."""
        self._only_unlimited("its raw connection")
        return super().connection(*args, **options)

    def bulk_save_objects(self, *args: Any, **options: Any) -> None:
        """Write rows without events; a tenant's session refuses."""
        self._only_unlimited("bulk_save_objects")
        super().bulk_save_objects(*args, **options)

    def bulk_insert_mappings(self, *args: Any, **options: Any) -> None:
        """Insert rows without events; a tenant's session refuses."""
        self._only_unlimited("bulk_insert_mappings")
        super().bulk_insert_mappings(*args, **options)

    def bulk_update_mappings(self, *args: Any, **options: Any) -> None:
        """Update rows without events; a tenant's session refuses."""
        self._only_unlimited("bulk_update_mappings")
        super().bulk_update_mappings(*args, **options)

    def _only_unlimited(self, way: str) -> None:
        if self.tenant is not None:
            raise ScopeError(f"a session of the tenant {self.tenant} does not give {way}")


@event.listens_for(ScopedSession, "do_orm_execute")
def limit_statement(state: ORMExecuteState) -> None:
    """Add the tenant's criteria to an ORM statement; refuse a statement that the criteria do not reach."""
    session = state.session
    tenant = session.tenant if isinstance(session, ScopedSession) else None
    if tenant is None or state.is_column_load:
        return
    statement = state.statement
    if isinstance(statement, Insert):
        check_insert(session, statement, tenant, state.parameters)
        return
    if isinstance(statement, Select) and KEPT in statement.get_execution_options():
        state.statement = _kept(cast("Select[Any]", statement), tenant)
        return
    limited = _limited(statement, tenant)
    if isinstance(statement, Update):
        check_update(statement, tenant, state.parameters)
    state.statement = limited


@event.listens_for(ScopedSession, "before_flush")
def limit_flush(session: Session, _context: UOWTransaction, _instances: object) -> None:
    """Refuse to write new or changed rows of another tenant."""
    tenant = session.tenant if isinstance(session, ScopedSession) else None
    if tenant is None:
        return
    for row in (*session.new, *session.dirty, *session.deleted):
        _check_row(session, row, tenant)


_checked: dict[object, frozenset[type[Table]]] = {}
"""The classes of the statements that were checked, by SQLAlchemy's cache key, which names all that a check looks at."""


def _classes(statement: Any, tenant: str) -> frozenset[type[Table]]:
    """Return the classes of a statement; one that is built like a statement before it is not checked again.

    SQLAlchemy's cache of compiled statements relies on the same key. The key holds no values, so a statement is checked
    once for all tenants; a statement that is refused, or has no key, is checked each time.
    """
    made = statement._generate_cache_key()  # noqa: SLF001
    if made is None:
        return check_parts(statement, tenant)
    known = _checked.get(made.key)
    if known is None:
        if len(_checked) >= MOST_CHECKED:
            _checked.clear()
        known = _checked[made.key] = check_parts(statement, tenant)
    return known


@lru_cache(maxsize=2048)
def _kept(statement: Select[Any], tenant: str) -> Any:
    """Return a kept statement with the tenant's criteria, checked and built once for each tenant.

    SQLAlchemy computes the cache key of each new statement; of this one it has it already. A refusal is not kept.
    """
    return _limited(statement, tenant)


def _limited(statement: Any, tenant: str) -> Any:
    """Check a statement and return it with the tenant's criteria."""
    classes = _classes(statement, tenant)
    return statement.options(*_criteria(tenant, classes)) if classes else statement


@lru_cache(maxsize=4096)
def _criteria(tenant: str, classes: frozenset[type[Table]]) -> tuple[Any, ...]:
    """Return the criteria of the classes of a statement; each criterion makes the statement slower to prepare."""

    def owned(table: type[Table], column: str) -> ColumnElement[bool]:
        return getattr(table, column) == tenant

    options = [
        with_loader_criteria(table, owned(table, name), include_aliases=True)
        for table, name in OWNED.items()
        if table in classes
    ]
    for table, (name, parent) in CHILDREN.items():
        if table not in classes:
            continue
        parents: Select[Any] = select(parent_key(parent)).where(owned(parent, OWNED[parent]))
        options.append(with_loader_criteria(table, getattr(table, name).in_(parents), include_aliases=True))
    return tuple(options)


def _check_row(session: Session, row: object, tenant: str) -> None:
    table = type(row)
    if not issubclass(table, Table) or table in OPERATORS:
        refuse(tenant, f"{table.__name__} is no tenant's")
    column = inspect(row).attrs[owner_column(table)]
    owners = [column.value, *(column.history.deleted or ())]
    with session.no_autoflush:
        check_owners(session, table, [str(owner) for owner in owners if owner is not None], tenant)
