"""Recognises the format of a file's first row at submit, before any worker reads the file.

Only plain JSON Lines are looked at, one line of bounded length; ``prepare`` judges every other file, and every row.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..tuning.files.faults import Fault
from ..tuning.recipe import Method
from ..tuning.rows.column_names import ColumnNames
from ..tuning.rows.formats import KNOWN_KEYS, Format, candidates, methods_of, recognise

LONGEST_LINE_BYTES = 1 << 16


def require_method(path: Path, columns: Mapping[str, str], method: Method) -> None:
    """Refuse a file whose first row is for another method; a row that cannot be read is left to ``prepare``.

    Raises:
        DataError: The message names the line to write into the job.
    """
    known = _format(path, columns)
    if known is None or method in (fitting := methods_of(known.name, trains=known.trains)):
        return
    others = f" (or {', '.join(fitting[1:])})" if fitting[1:] else ""
    line = "Take method out of" if known.trains else f"Write the line `method: {fitting[0]}`{others} into"
    raise DataError(
        f"{path.name} begins with a row of the {known.name} format, and method {method} does not train on those.",
        hint=f"{line} the job.",
    )


def _format(path: Path, columns: Mapping[str, str]) -> Format | None:
    if path.suffix.lower() != ".jsonl":
        return None
    try:
        with path.open("rb") as file:
            line = file.readline(LONGEST_LINE_BYTES)
        row: Any = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
        if not isinstance(row, dict):
            return None
        names = ColumnNames(columns, KNOWN_KEYS)
        return recognise(names.renamed(row).keys(), candidates(names))  # pyright: ignore[reportUnknownArgumentType]
    except (OSError, ValueError, RecursionError, Fault):
        return None
