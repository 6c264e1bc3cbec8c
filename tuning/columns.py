"""Reading tables: ``.csv`` with a header line, and ``.parquet``, row by row, with the place of each fault.

A CSV's rows are counted in lines of the file, as an editor shows them; a row may go on over several. A Parquet file has
no lines: its rows count from 1, and a column is the number of its column. Cells of a CSV that hold a list of messages
or tools hold it as JSON.
"""

import csv
import re
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from ..settings.errors import DataError, UnavailableError
from . import lines
from .faults import BadLine, Fault
from .lines import BOM, decode, place, reading_notes
from .streams import opened, position, start_of
from .strict_json import parse_value

DELIMITERS = (",", ";", "\t")
JSON_COLUMNS = frozenset({"messages", "conversations", "tools", "functions", "history"})
"""Columns of a CSV whose cells are JSON."""
MAX_ROW_LINES = 100_000
BATCH_ROWS = 256
COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class CsvRow:
    """A row of a CSV: where it begins, its own text, and its cells by column."""

    number: int
    text: str
    value: dict[str, Any]
    delimiter: str
    header: tuple[str, ...]

    def bad(self, fault: Fault) -> BadLine:
        """A fault of this row, with its place."""
        return fault.bad_line(*place(self.text, self._offset(fault), self.number, 1))

    def _offset(self, fault: Fault) -> int:
        if isinstance(fault.at, int):
            return fault.at
        key = fault.at[0] if fault.at else ""
        return cell_offset(self.text, self.delimiter, self.header.index(key)) if key in self.header else 0


def cell_offset(text: str, delimiter: str, index: int) -> int:
    """Where the cell of a number begins in a row's text."""
    cell = re.compile(rf'[ ]*(?:"(?:[^"]++|"")*+"[^{delimiter}]*|[^{delimiter}]*)')
    at = 0
    for _ in range(index):
        found = cell.match(text, at)
        at = (found.end() if found else at) + 1
    return min(at, len(text))


@dataclass(slots=True)
class CsvFile:
    """A ``.csv`` file, plain or gzipped; iterating gives its rows, good and bad, and fills the counts.

    Attributes:
        lines: Of the file, read so far.
        done_bytes: Of the file itself, read so far.
    """

    path: Path
    lines: int = 0
    blank: int = 0
    crlf: int = 0
    bom: bool = False
    done_bytes: int = 0
    _taken: list[str] = field(default_factory=list[str])
    _file: IO[bytes] | None = None
    _delimiter: str = ","

    def __iter__(self) -> Iterator[CsvRow | BadLine]:
        csv.field_size_limit(lines.MAX_LINE_BYTES)
        with opened(self.path) as self._file:
            try:
                yield from self._rows()
            except Fault as fault:  # of the bytes, which the csv reader can't pass over
                yield fault.bad_line(self.lines, fault.at + 1 if isinstance(fault.at, int) else 1)
            self.done_bytes = position(self._file)

    @property
    def notes(self) -> list[str]:
        """What a person should know about how it was read."""
        notes = reading_notes(bom=self.bom, crlf=0, blank=self.blank)
        if self._delimiter != ",":
            notes.append(f"the columns are separated by {self._delimiter!r}, not by commas")
        return notes

    def _rows(self) -> Iterator[CsvRow | BadLine]:
        head = start_of(self.path, COPY_BYTES).partition(b"\n")[0]
        self._delimiter = next((mark for mark in DELIMITERS if mark.encode() in head), ",")
        reader = csv.reader(self._texts(), delimiter=self._delimiter, strict=True)
        header: tuple[str, ...] | None = None
        while True:
            first = self.lines + 1
            self._taken.clear()
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield self._broken(first, str(error))
                if self.lines - first > 1 or "unexpected end" in str(error):
                    return
                continue
            if cells is None:
                return
            if not any(cells):
                self.blank += 1
                lines.refuse_blanks(self.path, self.blank, self.lines)
            elif header is None:
                header = tuple(cell.strip() for cell in cells)
                if len(set(header)) < len(header) or not all(header):
                    reason = "the first line, which names the columns, has the same name twice or an empty one"
                    yield BadLine(first, 1, None, "bad_header", reason, "name each column once")
                    return
            else:
                yield self._row(first, header, cells)

    def _broken(self, first: int, said: str) -> BadLine:
        reason, fix = f"invalid CSV: {said}", "write the file with a CSV library, which quotes what must be quoted"
        if "unexpected end" in said:
            reason, fix = "a quote opens in this row and never closes", 'close it, and write a quote inside text as ""'
        elif "field limit" in said:
            reason = f"a cell is longer than {lines.MAX_LINE_BYTES // 2**20} MiB; a quote may be open"
        return BadLine(first, 1, None, "bad_csv", reason, fix)

    def _row(self, first: int, header: tuple[str, ...], cells: list[str]) -> CsvRow | BadLine:
        text = "".join(self._taken)
        if len(cells) != len(header):
            reason = f"the row has {len(cells)} cells, and the first line names {len(header)} columns"
            fix = f"put text that holds a {self._delimiter!r} or a line feed between double quotes"
            at = cell_offset(text, self._delimiter, min(len(cells), len(header)))
            return Fault("bad_csv", reason, fix).bad_line(*place(text, max(at - 1, 0), first, 1))
        row = CsvRow(first, text, dict(zip(header, cells, strict=True)), self._delimiter, header)
        try:
            for name in JSON_COLUMNS & row.value.keys():
                row.value[name] = _json_cell(row.value[name], name)
        except Fault as fault:
            return row.bad(fault)
        return row

    def _texts(self) -> Iterator[str]:
        """The file's lines as text, which the csv reader puts together to rows."""
        if self._file is None:
            return
        while raw := self._file.readline(lines.MAX_LINE_BYTES + 1):
            self.lines += 1
            if not self.lines % 1000:
                self.done_bytes = position(self._file)
            if len(raw) > lines.MAX_LINE_BYTES:
                lines.skip_line(self._file)
                lines.refuse_long()
            self.bom = self.bom or (self.lines == 1 and raw.startswith(BOM))
            text = decode(raw, first=self.lines == 1) + "\n"
            if "\0" in text:
                raise Fault("nul", "the text holds a NUL character", "remove it: tr -d '\\000'", at=text.index("\0"))
            self._taken.append(text)
            if len(self._taken) > MAX_ROW_LINES:
                reason = f"a row goes on over more than {MAX_ROW_LINES:,} lines; a quote may be open"
                raise Fault("bad_csv", reason, 'close it, and write a quote inside text as ""')
            yield text


def _json_cell(cell: str, name: str) -> Any:
    if not cell.strip():
        return None
    try:
        return parse_value(cell)
    except Fault as fault:
        reason = f"the cell of {name} is no JSON list ({fault.reason})"
        raise Fault("bad_json", reason, "write it as json.dumps does", at=(name,)) from None


@dataclass(frozen=True, slots=True)
class ParquetRow:
    """A row of a Parquet file: its number and its values by column."""

    number: int
    value: dict[str, Any]
    header: tuple[str, ...]

    def bad(self, fault: Fault) -> BadLine:
        """A fault of this row, with its place."""
        key = fault.at[0] if isinstance(fault.at, tuple) and fault.at else ""
        return fault.bad_line(self.number, self.header.index(key) + 1 if key in self.header else 1)


@dataclass(slots=True)
class ParquetFile:
    """A ``.parquet`` file, plain or gzipped; iterating gives its rows and fills the counts.

    Attributes:
        lines: Rows read so far.
        done_bytes: Of the file itself, about; what has been read so far.
    """

    path: Path
    lines: int = 0
    blank: int = 0
    done_bytes: int = 0
    notes: list[str] = field(default_factory=list[str])

    def __iter__(self) -> Iterator[ParquetRow | BadLine]:
        parquet, arrow_error = _arrow()
        size = self.path.stat().st_size if self.path.is_file() else 0
        with _seekable(self.path) as file:
            try:
                table = parquet.ParquetFile(file)
                header = tuple(table.schema_arrow.names)
                total = max(table.metadata.num_rows, 1)
                for batch in table.iter_batches(batch_size=BATCH_ROWS):
                    self.done_bytes = size * self.lines // total
                    columns = [(name, batch.column(number)) for number, name in enumerate(header)]
                    for index in range(batch.num_rows):
                        self.lines += 1
                        yield self._row(header, columns, index)
            except (arrow_error, OSError, ValueError) as error:
                words = " ".join(str(error).split())[:200]
                raise DataError(
                    f"{self.path.name} is no Parquet file that can be read (after row {self.lines}: {words}).",
                    hint="Write it again with pyarrow or pandas.",
                ) from None
        self.done_bytes = size

    def _row(self, header: tuple[str, ...], columns: list[tuple[str, Any]], index: int) -> ParquetRow | BadLine:
        row = ParquetRow(self.lines, {}, header)
        for name, column in columns:
            try:
                row.value[name] = _plain(column[index].as_py(), name)
            except UnicodeDecodeError as error:
                reason = f"the byte 0x{error.object[error.start]:02x} of {name} is not UTF-8"
                return row.bad(Fault("not_utf8", reason, "write the column as UTF-8 text", at=(name,)))
            except Fault as fault:
                return row.bad(fault)
        return row


def _plain(value: Any, name: str) -> Any:
    """A value as JSON would hold it; the fields that Parquet fills up with nulls are gone."""
    if isinstance(value, str):
        if "\0" in value:
            raise Fault("nul", f"{name} holds a NUL character", "remove it", at=(name,))
        return value
    if isinstance(value, dict):
        return {key: _plain(item, name) for key, item in value.items() if item is not None}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list):
        return [_plain(item, name) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def _arrow() -> tuple[Any, type[Exception]]:
    try:
        arrow: Any = import_module("pyarrow")  # late and by name: an optional part, heavy, and without types
        return import_module("pyarrow.parquet"), arrow.ArrowException
    except ImportError:
        raise UnavailableError(
            "reading a .parquet file needs pyarrow, which is not installed.", hint="Run: pip install 'celora[train]'"
        ) from None


@contextmanager
def _seekable(path: Path) -> Generator[IO[bytes]]:
    """A Parquet file has its index at its end; a gzipped one is unpacked into a file without a name first."""
    with opened(path) as file:
        if file.seekable():
            yield file
            return
        with tempfile.TemporaryFile() as unpacked:
            while chunk := file.read(COPY_BYTES):
                unpacked.write(chunk)
            unpacked.seek(0)
            yield unpacked
