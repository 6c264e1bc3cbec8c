"""Refuses statements in a tenant's session that the tenant's criteria do not reach."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from sqlalchemy import Insert, Select, Update, func, inspect, select
from sqlalchemy import Table as CoreTable
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnClause, TextClause
from sqlalchemy.sql.selectable import SelectBase
from sqlalchemy.sql.visitors import HasTraverseInternals

from ..tables import Table
from .scope import CHILDREN, OPERATORS, OWNED, limited_class, owner_column, parent_key, refuse


def check_parts(statement: Any, tenant: str) -> frozenset[type[Table]]:
    """Refuse text, tables without their class, and tables of the operator, anywhere in a statement.

    Returns:
        The classes of the statement, which need the tenant's criteria; those of joined and nested parts among them.
    """
    left, seen, classes = [statement], set[int](), set[type[Table]]()
    while left:
        part = left.pop()
        if id(part) not in seen:
            seen.add(id(part))
            left += _check_level(part, tenant, classes)
    return frozenset(classes)


def _check_level(statement: Any, tenant: str, classes: set[type[Table]]) -> list[Any]:
    """Check one select, update or delete without those inside it, which are returned.

    A column without its class's mark (the annotation ``parententity``, for which SQLAlchemy has no public name) is
    harmless where the same level names the class: ``Session.get`` writes its condition so. Anywhere else such a column
    adds its table to the statement, and the criteria do not reach the table.
    """
    entities, bare, inner = set[str](), dict[str, Any](), list[Any]()
    left = [statement] if isinstance(statement, TextClause) else _parts_of(statement)
    while left:
        part = left.pop()
        table = _table_of(part)
        if (entity := part._annotations.get("parententity")) is not None:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            classes.add(_check_entity(entity, tenant))
            entities.add(getattr(table, "fullname", ""))
        elif isinstance(part, SelectBase):
            inner.append(part)
        elif isinstance(part, ColumnClause) and isinstance(table, CoreTable):
            bare[table.fullname] = part
        elif isinstance(part, ColumnClause) and table is not None:
            inner.append(table)
        else:
            _check_plain(part, tenant)
            left += _parts_of(part)
    for name in bare.keys() - entities:
        refuse(tenant, f"{bare[name]} is not named by its class")
    return inner


def _check_entity(entity: Any, tenant: str) -> type[Table]:
    if (table := inspect(entity).mapper.class_) in OPERATORS:
        refuse(tenant, f"{table.__name__} is the operator's")
    return table


def _check_plain(part: Any, tenant: str) -> None:
    literal = issubclass(type(part), ColumnClause) and part.is_literal and part.name != "*"
    if literal or issubclass(type(part), TextClause):
        refuse(tenant, f"the text {str(part)[:80]!r} has no scope")
    if isinstance(part, CoreTable):
        refuse(tenant, f"the table {part} is not named by its class")


def _table_of(part: Any) -> Any:
    return part if issubclass(type(part), CoreTable) else getattr(part, "table", None)


def _parts_of(part: Any) -> list[Any]:
    """Return the parts that the statement names; a select's own get_children adds the tables that it derives."""
    if issubclass(type(part), Select):
        return list(HasTraverseInternals.get_children(part))
    return list(part.get_children())


def check_insert(session: Session, statement: Insert, tenant: str, parameters: Any) -> None:
    """Refuse an insert whose rows belong to another tenant, or that may change a row of another tenant."""
    table = limited_class(statement.table)
    if table is None or table in OPERATORS:
        refuse(tenant, f"the table {statement.table} is no tenant's")
    if statement.select is not None:
        refuse(tenant, "rows that come from a select have no scope")
    from sqlalchemy.dialects import postgresql, sqlite  # noqa: PLC0415  (a twentieth of a short command that reads)

    on_conflict: Any = statement._post_values_clause  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    if isinstance(on_conflict, postgresql.dml.OnConflictDoUpdate | sqlite.dml.OnConflictDoUpdate):
        keys = {getattr(one, "name", one) for one in on_conflict.inferred_target_elements or ()}
        if owner_column(table) not in keys:
            refuse(tenant, f"an insert into {statement.table} may change another tenant's row")
        if owner_column(table) in dict(on_conflict.update_values_to_set):
            refuse(tenant, f"an insert into {statement.table} would move a row")
    rows = _rows_of(parameters)
    values: Any = statement._values or statement._multi_values  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    if rows and values:
        refuse(tenant, f"{statement.table} is given values of two kinds")
    named = list(_named(rows or [statement.compile(dialect=session.get_bind().dialect).params], owner_column(table)))
    if not named:
        refuse(tenant, f"an insert into {statement.table} names no {owner_column(table)}")
    check_owners(session, table, named, tenant)


def _rows_of(parameters: Any) -> list[Mapping[str, Any]]:
    """Return the parameters of a statement as rows; SQLAlchemy gives one row, several, or none."""
    return [cast("Mapping[str, Any]", parameters)] if isinstance(parameters, Mapping) else list(parameters or ())


def _named(rows: Iterable[Mapping[str, Any]], column: str) -> Iterator[str]:
    """Yield the values of a column in the parameters of an insert; ``tenant_m1`` is the second of several rows."""
    mark = re.compile(rf"{column}(_m\d+)?")
    for row in rows:
        yield from (str(value) for name, value in row.items() if value is not None and mark.fullmatch(name))


def check_update(statement: Update, tenant: str, parameters: Any) -> None:
    """Refuse an update that moves a row to another tenant or parent, and one by keys, which takes no criteria."""
    if parameters and not isinstance(parameters, Mapping):
        refuse(tenant, "an update of several rows by their keys has no scope")
    table = limited_class(statement.table)
    if table is None:
        refuse(tenant, f"the table {statement.table} is not named by its class")
    written: Any = statement._values or {}  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    changed = {str(getattr(column, "key", column)) for column in written}
    if owner_column(table) in changed.union(*_rows_of(parameters)):
        refuse(tenant, f"an update of {statement.table} would move a row")


def check_owners(session: Session, table: type[Table], owners: list[str], tenant: str) -> None:
    """Refuse to write rows that name another tenant, or a parent that the scope does not show."""
    if table in OWNED:
        found = set(owners) <= {tenant}
    else:
        _, parent = CHILDREN[table]
        new = {str(cast("Any", row).id) for row in session.new if isinstance(row, parent)}
        missing = set(owners) - new
        count = select(func.count()).select_from(parent).where(parent_key(parent).in_(missing))
        found = not missing or session.scalar(count) == len(missing)
    if not found:
        refuse(tenant, f"a row of {table.__tablename__} belongs to somebody else")
