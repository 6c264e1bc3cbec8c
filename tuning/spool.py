"""The rows of a file between reading and tokenizing: on disk, so that a million of them fit into little memory.

They stand in a temporary file without a name, which is gone when the process is, however it ends. A row of roles and
words, as nearly all are, is its words alone, which is three times as fast as JSON; any other is JSON. In memory stay 20
bytes a row: where it begins, its line and its roles' number. A ``Spool`` reads like the list of its rows; whoever needs
words alone reads them without a row being made.
"""

import json
import os
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray

from .rows import Row, Said, Turns

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
_names = tuple(field.name for field in fields(Row) if field.name != "line")
_said: Callable[[Row], tuple[Any, ...]] = attrgetter(*_names)
_rest: Callable[[Row], tuple[Any, ...]] = attrgetter(*(name for name in _names if name not in ("messages", "weights")))
_USUAL = _rest(Row([], [], 0))
_BREAK, _END = "\0", b"\0"
_AS_JSON = -1
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Packed:
    """What a spool holds, to be handed to another one."""

    said: bytes
    starts: NDArray[np.int64]
    lines: "array[int]"
    kinds: NDArray[np.int32]
    turns: list[Turns]


class Spool(Sequence[Row]):
    """Rows on disk, in the order in which they were added.

    Args:
        folder: Where the temporary file is made; the system's own place unless set.
        file: What to write to in its place, for a few rows that are handed on.
    """

    def __init__(self, folder: Path | None = None, *, file: IO[bytes] | None = None) -> None:
        self._file = file or tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (it is open as long as the spool is)
        weakref.finalize(self, self._file.close)
        self._starts: array[int] = array("q", [0])
        self._lines: array[int] = array("q")
        self._kinds: array[int] = array("i")  # the number of a row's turns, or _AS_JSON
        self._turns: list[Turns] = []
        self._numbers: dict[Turns, int] = {}

    def append(self, row: Row) -> None:
        """Write a row."""
        words = _words_alone(row)
        if words is None:
            self._kinds.append(_AS_JSON)
            said = _encode(_said(row)).encode()
        else:
            self._kinds.append(self._kind((tuple([message["role"] for message in row.messages]), tuple(row.weights))))
            said = words.encode()
        self._write(said, row.line)

    def append_words(self, turns: Turns, words: Sequence[str], line: int) -> None:
        """Write a row of roles and words alone."""
        said = _BREAK.join((*words, "")).encode()  # the last break is the row's end
        if said.count(_END) != len(words):
            self.append(row_of(turns, words, line))
            return
        self._kinds.append(self._kind(turns))
        self._starts.append(self._starts[-1] + self._file.write(said))
        self._lines.append(line)

    def _write(self, said: bytes, line: int) -> None:
        self._starts.append(self._starts[-1] + self._file.write(said) + self._file.write(_END))
        self._lines.append(line)

    def _kind(self, turns: Turns) -> int:
        number = self._numbers.get(turns)
        if number is None:
            number = self._numbers[turns] = len(self._turns)
            self._turns.append(turns)
        return number

    def packed(self) -> Packed:
        """All of a spool that was given a file in memory, to be appended to another one."""
        self._file.seek(0)
        starts, kinds = np.array(self._starts, dtype=np.int64), np.array(self._kinds, dtype=np.int32)
        return Packed(self._file.read(), starts, self._lines, kinds, self._turns)

    def extend(self, rows: Packed) -> None:
        """Append the rows of another spool."""
        ours = np.array([*map(self._kind, rows.turns), _AS_JSON], dtype=np.int32)  # the last is what -1 finds
        self._file.write(rows.said)
        self._starts.frombytes((rows.starts[1:] + self._starts[-1]).tobytes())
        self._lines.extend(rows.lines)
        self._kinds.frombytes(ours[rows.kinds].tobytes())

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
                yield self._row(data[self._starts[number] - begin : self._starts[number + 1] - begin - 1], number)
            at = stop

    def size_bytes(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """What each of some rows takes."""
        starts = np.frombuffer(self._starts, dtype=np.int64)
        return starts[numbers + 1] - starts[numbers]

    def said(self, numbers: NDArray[np.int64]) -> list[Said | Row]:
        """Some rows whose numbers rise: the words of those that are words alone, the others whole."""
        self._file.flush()
        begin = self._starts[int(numbers[0])]
        data = os.pread(self._file.fileno(), self._starts[int(numbers[-1]) + 1] - begin, begin)
        if len(numbers) <= numbers[-1] - numbers[0]:
            starts = self._starts
            data = b"".join([data[starts[at] - begin : starts[at + 1] - begin] for at in numbers.tolist()])
        words = data.decode().split(_BREAK)  # a row's end is a break too
        found: list[Said | Row] = []
        at = 0
        chosen: list[int] = numbers.tolist()
        for number in chosen:
            kind = self._kinds[number]
            if kind == _AS_JSON:
                found.append(self._row(words[at].encode(), number))
                at += 1
            else:
                turns = self._turns[kind]
                end = at + len(turns[0])
                found.append((turns, words[at:end]))
                at = end
        return found

    def lines(self, numbers: NDArray[np.int64]) -> list[int]:
        """The lines of some rows."""
        found: list[int] = np.frombuffer(self._lines, dtype=np.int64)[numbers].tolist()
        return found

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
        return self._row(os.pread(self._file.fileno(), end - begin - 1, begin), number)

    def _row(self, said: bytes, number: int) -> Row:
        kind, line = self._kinds[number], self._lines[number]
        if kind == _AS_JSON:
            return Row(**dict(zip(_names, json.loads(said), strict=True)), line=line)
        return row_of(self._turns[kind], said.decode().split(_BREAK), line)


def row_of(turns: Turns, words: Sequence[str], line: int) -> Row:
    """A row of its roles and words."""
    roles, weights = turns
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


def numbered(rows: Sequence[Row]) -> tuple[Spool, NDArray[np.int64]]:
    """The spool that holds some rows, and their numbers in it; rows of a list are put into one."""
    if isinstance(rows, Chosen):
        return rows.spool, rows.numbers
    if not isinstance(rows, Spool):
        spool = Spool()
        for row in rows:
            spool.append(row)
        rows = spool
    return rows, np.arange(len(rows))


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
