"""Defines one row of a dataset file as its container holds it, before its format is known, and the container."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from .faults import BadLine
from .strict_json import JsonObject


@dataclass(frozen=True, slots=True)
class Record:
    """Holds a row: its number and its values by key.

    Attributes:
        number: The line on which the row begins; of a Parquet file and of several files, the row, from 1.
        value: Values by key or column.
        place: The file and the line in words, where the rows come from several files.
    """

    number: int
    value: JsonObject
    place: str = ""


class Container(Protocol):
    """Describes a file of rows; iterating reads the file once, in bounded memory, and fills the counts."""

    lines: int
    blank: int
    done_bytes: int

    @property
    def notes(self) -> list[str]:
        """Returns remarks for a person about how the file was read."""
        ...

    def __iter__(self) -> Iterator[Record | BadLine]: ...
