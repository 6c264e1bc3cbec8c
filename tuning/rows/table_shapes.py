"""Recognises a JSON object that holds a whole table, or a wrapped row, in the place of one row.

Exports often hold their rows one level too deep: under a key (``{"data": [...]}``), by column (``{"prompt": [...]}``),
or in one of pandas' orientations. Such an object is never read as rows, because a key beside the rows could change
their meaning. Only an object that was refused as a row is looked at, so no good row costs anything here.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import cast

from ..files.faults import Fault
from ..files.strict_json import JsonObject, JsonValue

LOOKED_AT = frozenset({"unknown_format", "missing_key", "ambiguous", "not_text", "no_messages"})
"""Kinds of faults that a table in the place of a row can have."""

CONVERSATIONS = ("messages", "conversations")
MOST_DEPTH = 3
SHOWN_KEYS = 3
_PANDAS = "write one object a row: pandas' to_json(PATH, orient='records', lines=True) does"


def table_fault(value: JsonObject, known: AbstractSet[str]) -> Fault | None:
    """Returns the fault of an object that holds a table or a wrapped row; None for any other object.

    Args:
        value: The object, which is no good row.
        known: The keys that a row may have.
    """
    return _split(value) or _by_column(value, known) or _by_index(value, known) or _below(value, known)


def _split(value: JsonObject) -> Fault | None:
    """Finds pandas' orientation ``split``: names of columns, and cells without names."""
    names, cells = value.get("columns"), value.get("data")
    if isinstance(names, list) and isinstance(cells, list) and all(isinstance(row, list) for row in cells):
        return Fault("columns", f"the object holds a table of {len(cells)} rows without keys", _PANDAS, at=("data",))
    return None


def _by_column(value: JsonObject, known: AbstractSet[str]) -> Fault | None:
    """Finds a table by column: every value is a list, all of one length, and no list holds turns or rows."""
    columns = [cell for cell in value.values() if isinstance(cell, list)]
    lengths = {len(cell) for cell in columns}
    if len(columns) < len(value) or len(lengths) != 1 or not all(lengths):
        return None
    if any(_is_one_row(key, cast("list[JsonValue]", cell)) for key, cell in value.items() if key in known):
        return None
    if not value.keys() & known and any(isinstance(item, dict) for cell in columns for item in cell):
        return None
    holds = "hold lists" if len(value) > 1 else "holds a list"
    reason = f"{_listed(list(value))} {holds}, as the columns of a table do, and a row holds one example"
    return Fault("columns", reason, _PANDAS)


def _is_one_row(key: str, cell: list[JsonValue]) -> bool:
    """Returns whether a list is a value of one row, and not a column: it holds turns, or what should be turns."""
    return any(isinstance(item, dict) for item in cell) or (
        key in CONVERSATIONS and not any(isinstance(item, list) for item in cell)
    )


def _by_index(value: JsonObject, known: AbstractSet[str]) -> Fault | None:
    """Finds pandas' orientations ``columns`` and ``index``: objects in an object, all with the same keys."""
    inner = [cell for cell in value.values() if isinstance(cell, dict)]
    if len(inner) < max(len(value), 1) or not inner[0] or any(cell.keys() != inner[0].keys() for cell in inner):
        return None
    if value.keys() & known and all(key.isdigit() for key in inner[0]):
        reason = f"{_listed(list(value))} hold the cells of {len(inner[0])} rows, and a row holds one example"
        return Fault("columns", reason, _PANDAS)
    if len(value) > 1 and inner[0].keys() & known:
        reason = f"the object holds {len(value)} rows by number or name, and is no row itself"
        return Fault("not_an_array", reason, "write the rows alone: jq -c '.[]' IN > OUT")
    return None


def _below(value: JsonObject, known: AbstractSet[str]) -> Fault | None:
    """Finds rows, or one row, under a key that no row has."""
    lists = sorted(_lists(value, known, ()), key=lambda found: _promise(found[1], known), reverse=True)
    if lists:
        rows = lists[0][1]
        where = _listed([".".join(way) for way, _ in lists])
        holds = f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}" if rows else "an empty list"
        reason = f"this is one JSON object and no row: it holds {holds} under {where}"
        return Fault("not_an_array", reason, f"write the rows alone: jq -c '{_jq(lists[0][0])}[]' IN > OUT")
    for key, inner in value.items():
        if isinstance(inner, dict) and key not in known and inner.keys() & known:
            reason = f"the row lies one level too deep, under {key!r}"
            return Fault("nested_row", reason, f"write what lies there: jq -c '{_jq((key,))}' IN > OUT", at=(key,))
    return None


def _lists(
    value: JsonObject, known: AbstractSet[str], way: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], list[JsonValue]]]:
    """Yields the lists of objects below an object, each with the keys that lead to it."""
    for key, inner in value.items():
        if key in known:
            continue
        here = (*way, key)
        if isinstance(inner, list) and all(isinstance(item, dict) for item in inner):
            yield here, inner
        elif isinstance(inner, dict) and len(here) < MOST_DEPTH:
            yield from _lists(inner, known, here)


def _promise(rows: list[JsonValue], known: AbstractSet[str]) -> tuple[bool, int]:
    """Ranks lists: one of rows with known keys comes before another, then the longer one."""
    return any(isinstance(row, dict) and bool(row.keys() & known) for row in rows[:1]), len(rows)


def _jq(way: tuple[str, ...]) -> str:
    """Writes keys as a filter of jq."""
    return "".join(f".{key}" if key.isidentifier() and key.isascii() else f'.["{key}"]' for key in way)


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN_KEYS]))
    return f"{shown} and {len(names) - SHOWN_KEYS} more" if len(names) > SHOWN_KEYS else shown
