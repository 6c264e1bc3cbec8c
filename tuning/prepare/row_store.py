"""Keeps the rows of a file on disk between reading and tokenizing, so that a million of them fit into little memory.

The rows are JSON in a temporary file without a name. The kernel removes it when the process ends, however it ends.
Memory holds 16 bytes a row: the offset in the file and the line. A ``RowStore`` reads like the list of its rows.
"""

import json
import os
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ..rows.row import Row

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
_names = tuple(field.name for field in fields(Row) if field.name != "line")
_values: Callable[[Row], tuple[Any, ...]] = attrgetter(*_names)
READ_BYTES = 1 << 20


class RowStore(Sequence[Row]):
    """Stores rows on disk, in the order in which they were added.

    Args:
        folder: The folder of the temporary file; the system's own place unless set.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (it is open as long as the store is)
        weakref.finalize(self, self._file.close)
        self._starts: array[int] = array("q", [0])
        self._lines: array[int] = array("q")

    def append(self, row: Row) -> None:
        """Writes a row."""
        self._starts.append(self._starts[-1] + self._file.write(_encode(_values(row)).encode()))
        self._lines.append(row.line)

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Row]:
        return self.chosen(np.arange(len(self)))

    def chosen(self, numbers: NDArray[np.int64]) -> Iterator[Row]:
        """Reads the rows of rising numbers, a mebibyte of the file at a time."""
        self._file.flush()
        starts = np.frombuffer(self._starts, dtype=np.int64)
        at = 0
        while at < len(numbers):
            first = int(numbers[at])
            begin = int(starts[first])
            end = max(first + 1, int(np.searchsorted(starts, begin + READ_BYTES, side="right")) - 1)
            data = os.pread(self._file.fileno(), int(starts[end]) - begin, begin)
            stop = int(np.searchsorted(numbers, end))
            for number in numbers[at:stop].tolist():
                yield self._row(data[self._starts[number] - begin : self._starts[number + 1] - begin], number)
            at = stop

    def size_bytes(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the bytes on disk of each of the numbered rows."""
        starts = np.frombuffer(self._starts, dtype=np.int64)
        return starts[numbers + 1] - starts[numbers]

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """Reads one row, or a slice of rows."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        self._file.flush()
        begin, end = self._starts[number], self._starts[number + 1]
        return self._row(os.pread(self._file.fileno(), end - begin, begin), number)

    def _row(self, data: bytes, number: int) -> Row:
        return Row(**dict(zip(_names, json.loads(data), strict=True)), line=self._lines[number])


class ChosenRows(Sequence[Row]):
    """Selects rows of a store, in their order; they stay on disk."""

    def __init__(self, store: RowStore, numbers: NDArray[np.int64]) -> None:
        self.store, self.numbers = store, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Row]:
        return self.store.chosen(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """Reads one row, or a slice of rows."""
        if isinstance(index, slice):
            return list(self.store.chosen(self.numbers[index]))
        return self.store[int(self.numbers[index])]


def stored(rows: Sequence[Row]) -> tuple[RowStore, NDArray[np.int64]]:
    """Returns the store that holds the rows, and their numbers in it; rows of a list are written to a new store."""
    if isinstance(rows, ChosenRows):
        return rows.store, rows.numbers
    if not isinstance(rows, RowStore):
        store = RowStore()
        for row in rows:
            store.append(row)
        rows = store
    return rows, np.arange(len(rows))


def choose_rows(rows: Sequence[Row], wanted: NDArray[np.bool_]) -> Sequence[Row]:
    """Returns the wanted rows, in their order; rows of a store stay on disk."""
    numbers = np.flatnonzero(wanted)
    if len(numbers) == len(rows):
        return rows
    if isinstance(rows, RowStore):
        return ChosenRows(rows, numbers)
    if isinstance(rows, ChosenRows):
        return ChosenRows(rows.store, rows.numbers[numbers])
    return [rows[number] for number in numbers.tolist()]
