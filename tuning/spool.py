"""The rows of a file between reading and tokenizing: on disk, so that a million of them fit into little memory.

They stand in a temporary file without a name, which is gone when the process is, however it ends. A row of roles and
words, as nearly all are, is its words alone, which is three times as fast as JSON; any other is JSON. In memory stay 20
bytes a row: where it begins, its line and its roles' number. A ``Spool`` reads like the list of its rows.
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

from .rows import Row

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
_names = tuple(field.name for field in fields(Row) if field.name != "line")
_said: Callable[[Row], tuple[Any, ...]] = attrgetter(*_names)
_rest: Callable[[Row], tuple[Any, ...]] = attrgetter(*(name for name in _names if name not in ("messages", "weights")))
_USUAL = _rest(Row([], [], 0))
_BREAK = "\0"
_AS_JSON = -1
READ_BYTES = 1 << 20

_Turns = tuple[tuple[str, ...], tuple[int, ...]]
"""The roles and weights of a row's messages."""


class Spool(Sequence[Row]):
    """Rows on disk, in the order in which they were added.

    Args:
        folder: Where the temporary file is made; the system's own place unless set.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (it is open as long as the spool is)
        weakref.finalize(self, self._file.close)
        self._starts: array[int] = array("q", [0])
        self._lines: array[int] = array("q")
        self._kinds: array[int] = array("i")
        self._turns: list[_Turns] = []
        self._numbers: dict[_Turns, int] = {}

    def append(self, row: Row) -> None:
        """Write a row."""
        words = _words_alone(row)
        if words is None:
            self._kinds.append(_AS_JSON)
            said = _encode(_said(row)).encode()
        else:
            turns = (tuple([message["role"] for message in row.messages]), tuple(row.weights))
            if turns not in self._numbers:
                self._numbers[turns] = len(self._turns)
                self._turns.append(turns)
            self._kinds.append(self._numbers[turns])
            said = words.encode()
        self._starts.append(self._starts[-1] + self._file.write(said))
        self._lines.append(row.line)

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Row]:
        return self.chosen(np.arange(len(self)))

    def chosen(self, numbers: NDArray[np.int64]) -> Iterator[Row]:
        """The rows of these numbers, which rise; read in one go from the first to the last."""
        self._file.flush()
        starts = np.array(self._starts, dtype=np.int64)
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

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """One row, or some."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        self._file.flush()
        begin, end = self._starts[number], self._starts[number + 1]
        return self._row(os.pread(self._file.fileno(), end - begin, begin), number)

    def _row(self, said: bytes, number: int) -> Row:
        kind, line = self._kinds[number], self._lines[number]
        if kind == _AS_JSON:
            return Row(**dict(zip(_names, json.loads(said), strict=True)), line=line)
        roles, weights = self._turns[kind]
        words = said.decode().split(_BREAK)
        messages = [{"role": role, "content": text} for role, text in zip(roles, words, strict=True)]
        return Row(messages, list(weights), line)


def _words_alone(row: Row) -> str | None:
    """A row's words, where its roles and weights are all there is beside them."""
    if _rest(row) != _USUAL:
        return None
    words: list[str] = []
    for message in row.messages:
        text: Any = message.get("content")
        if len(message) != 2 or type(text) is not str or "role" not in message:  # noqa: PLR2004  (role, content)
            return None
        words.append(text)
    said = _BREAK.join(words)
    return said if words and said.count(_BREAK) == len(words) - 1 else None


class Chosen(Sequence[Row]):
    """Some rows of a spool, in their order; they stay on disk."""

    def __init__(self, spool: Spool, numbers: NDArray[np.int64]) -> None:
        self.spool, self.numbers = spool, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Row]:
        return self.spool.chosen(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """One row, or some."""
        if isinstance(index, slice):
            return list(self.spool.chosen(self.numbers[index]))
        return self.spool[int(self.numbers[index])]


def choose_rows(rows: Sequence[Row], wanted: NDArray[np.bool_]) -> Sequence[Row]:
    """The rows that are wanted, in their order; of a spool they stay on disk."""
    numbers = np.flatnonzero(wanted)
    if len(numbers) == len(rows):
        return rows
    if isinstance(rows, Spool):
        return Chosen(rows, numbers)
    if isinstance(rows, Chosen):
        return Chosen(rows.spool, rows.numbers[numbers])
    return [rows[number] for number in numbers.tolist()]
