"""Copies a whole record into an empty one of the other kind: from SQLite to PostgreSQL, once one host is too small.

Unusual: rows are copied as the tables type them, not as text, so that times keep their zone and JSON its meaning. Each
end is one transaction, so the target has either every row, counted, or none. Where the artifacts moved as well,
every URL below their old root is written as one below the new: a root that is not the settings' own is never read.
"""

from collections.abc import Callable
from typing import Any, cast

from sqlalchemy import Connection, Integer, Table, func, insert, select, text

from ...errors import SettingsError, StorageError
from ..database import Database
from ..engine import take_write_lock
from ..tables import Table as Record
from ..tables import Worker

PAGE = 1_000


def copy(
    source: Database,
    target: Database,
    told: Callable[[str, int], None] = lambda _table, _rows: None,
    *,
    roots: tuple[str, str] | None = None,
) -> int:
    """Copy every row of every table, in an order in which each reference finds its row.

    Args:
        source: A record of this program's version that no worker uses.
        target: An empty record; its tables are made.
        told: Called with each table's name and number of rows.
        roots: The artifacts' old root and the root that they were copied to.

    Returns:
        The number of copied rows.

    Raises:
        SettingsError: The two are the same record, a worker still uses the source, or the target has rows already.
        StorageError: After the copy the target does not have as many rows as the source.
    """
    if source.url == target.url:
        raise SettingsError("a record can't be copied into itself.", hint="Name two databases.")
    source.require_schema()
    target.migrate()
    total = 0
    with source.engine.connect() as reading, target.engine.begin() as writing:
        reading.begin()
        if reading.dialect.name == "sqlite":
            take_write_lock(reading)
        else:
            reading.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        if writing.dialect.name == "sqlite":
            take_write_lock(writing)
        _check(reading, writing, source, target)
        for table in Record.metadata.sorted_tables:
            rows = _copy_table(reading, writing, table, roots)
            _advance_sequence(writing, table)
            told(table.name, rows)
            total += rows
        reading.rollback()
    return total


def _check(reading: Connection, writing: Connection, source: Database, target: Database) -> None:
    online = list(reading.scalars(select(Worker.id).where(Worker.status != "offline").order_by(Worker.id)))
    if online:
        raise SettingsError(
            f"{', '.join(online[:3])} {'and more ' if len(online) > 3 else ''}still work on {source.shown}.",  # noqa: PLR2004  (three are shown)
            hint="Stop celora first; a worker that was killed counts as stopped a few minutes later.",
        )
    for table in Record.metadata.sorted_tables:
        if writing.scalar(select(func.count()).select_from(table)):
            raise SettingsError(
                f"{target.shown} is not empty: there are rows in its table {table.name}.",
                hint="Name a new database; nothing is ever merged.",
            )


def moved(value: Any, old: str, new: str) -> Any:
    """Replace every URL below the old root, at any depth of a value, by the URL below the new root.

    Example: ``moved({"uri": "file:///a/jobs/x"}, "file:///a", "s3://b")`` is ``{"uri": "s3://b/jobs/x"}``.
    """
    if isinstance(value, str):
        return new + value[len(old) :] if value.startswith(old + "/") else value
    if isinstance(value, list):
        return [moved(each, old, new) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: moved(each, old, new) for key, each in cast("dict[str, Any]", value).items()}
    return value


def _copy_table(reading: Connection, writing: Connection, table: Table, roots: tuple[str, str] | None) -> int:
    rows = reading.execution_options(yield_per=PAGE).execute(select(table).order_by(*table.primary_key))
    copied = 0
    for page in rows.mappings().partitions(PAGE):
        copies = [dict(row) for row in page]
        writing.execute(insert(table), moved(copies, *roots) if roots else copies)
        copied += len(page)
    there = writing.scalar(select(func.count()).select_from(table)) or 0
    expected = reading.scalar(select(func.count()).select_from(table)) or 0
    if not copied == there == expected:
        raise StorageError(
            f"table {table.name}: {expected} rows were to be copied, {copied} were read and {there} arrived.",
            hint="Nothing was changed; look at both databases and try again.",
        )
    return copied


def _advance_sequence(writing: Connection, table: Table) -> None:
    """Advance PostgreSQL's sequence, which numbers new rows, beyond the copied rows, which came with numbers."""
    column: Any = table.autoincrement_column
    if writing.dialect.name != "postgresql" or column is None or not isinstance(column.type, Integer):
        return
    sequence = writing.scalar(select(func.pg_get_serial_sequence(table.name, column.name)))
    last = writing.scalar(select(func.max(column)))
    if sequence is not None and last is not None:
        writing.execute(select(func.setval(sequence, last)))
