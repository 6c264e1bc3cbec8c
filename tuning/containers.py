"""Containers: which file format holds the rows, by the file's name and by what it begins with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from ..settings.errors import DataError
from .arrays import ArrayFile
from .columns import CsvFile, ParquetFile
from .faults import BadLine, Fault
from .lines import LineFile
from .streams import start_of

PARQUET = b"PAR1"


class Record(Protocol):
    """One row as its container holds it."""

    @property
    def number(self) -> int:
        """The line on which it begins, or its number."""
        ...

    @property
    def value(self) -> dict[str, Any]:
        """What it holds, by key or column."""
        ...

    def bad(self, fault: Fault) -> BadLine:
        """A fault of this row, with its place."""
        ...


class Container(Protocol):
    """A file of rows; iterating reads it once, in bounded memory, and fills the counts."""

    lines: int
    blank: int
    done_bytes: int

    @property
    def notes(self) -> list[str]:
        """What a person should know about how it was read."""
        ...

    def __iter__(self) -> Iterator[Record | BadLine]: ...


CONTAINERS: dict[str, type[LineFile | ArrayFile | CsvFile | ParquetFile]] = {
    ".jsonl": LineFile,
    ".json": ArrayFile,
    ".csv": CsvFile,
    ".parquet": ParquetFile,
}


def suffix_of(name: str) -> str:
    """The part of a file's name that says what it holds: ``.csv``, ``.jsonl.gz``; empty where it says nothing known."""
    lower = name.lower()
    packed = ".gz" if lower.endswith(".gz") else ""
    kind = Path(lower.removesuffix(".gz")).suffix
    return kind + packed if kind in CONTAINERS else ""


def container(path: Path) -> Container:
    """The reader of a file's rows.

    Raises:
        DataError: The name says nothing known, or something else than the content; or there is no such file.
    """
    start = start_of(path)
    kind = suffix_of(path.name).removesuffix(".gz")
    if not kind:
        raise DataError(
            f"{path.name} is none of the files that can be read.",
            hint=f"Its name must end in {', '.join(CONTAINERS)}, or in one of these and .gz.",
        )
    if start.startswith(PARQUET) and kind != ".parquet":
        raise DataError(f"{path.name} is a Parquet file (byte 1).", hint="Let its name end in .parquet.")
    return CONTAINERS[kind](path)
