"""Reads a ``.csv`` or ``.tsv`` file with a header line, row by row.

Rows are counted in lines of the file, as an editor shows them; a row may span several lines. A cell that holds a
list of messages or tools holds it as JSON.
"""

import ast
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO

from . import jsonl
from .faults import BadLine, Fault
from .gzip_file import opened, position, start_of
from .jsonl import BOM, decode, reading_notes
from .record import Record
from .strict_json import JsonValue, parse_value
from .suffixes import suffix_of

DELIMITERS = (",", ";", "\t", "|")
SAMPLED_ROWS = 20
"""Rows, the header among them, by which the delimiter is chosen."""
SEPARATOR = re.compile(rb"(?:\xef\xbb\xbf)?\"?sep=(.)\"?\r?\n")
"""The line by which Excel names the delimiter of a file."""
JSON_COLUMNS = frozenset({"messages", "conversations", "tools", "functions", "history"})
"""Columns of a CSV whose cells are JSON."""
MAX_ROW_LINES = 100_000
MOST_LITERAL_CHARACTERS = 10_000
HEAD_BYTES = 1 << 20


@dataclass(slots=True)
class CsvFile:
    """Reads a ``.csv`` file, plain or gzipped; iterating yields its rows and bad lines, and fills the counts.

    Attributes:
        lines: Lines of the file read so far.
        done_bytes: Bytes of the file itself read so far.
    """

    path: Path
    lines: int = 0
    blank: int = 0
    bom: bool = False
    done_bytes: int = 0
    _first: int = 0
    _file: IO[bytes] | None = None
    _delimiter: str = ","
    _header: tuple[str, ...] = field(default=())

    def __iter__(self) -> Iterator[Record | BadLine]:
        csv.field_size_limit(jsonl.MAX_LINE_BYTES)
        with opened(self.path) as self._file:
            try:
                yield from self._rows()
            except Fault as fault:  # a fault of the bytes: the csv reader can't skip such a line
                yield fault.bad_line(self.lines)
            self.done_bytes = position(self._file)

    @property
    def notes(self) -> list[str]:
        """Returns remarks for a person about how the file was read."""
        notes = reading_notes(bom=self.bom, crlf=0, blank=self.blank)
        if self._delimiter != ",":
            notes.append(f"the columns are separated by {self._delimiter!r}, not by commas")
        return notes

    def _rows(self) -> Iterator[Record | BadLine]:
        head = start_of(self.path, HEAD_BYTES)
        named = SEPARATOR.match(head)
        first = "\t" if suffix_of(self.path.name).startswith(".tsv") else ","
        self._delimiter = named[1].decode("latin-1") if named else _delimiter(head, first)
        reader = csv.reader(self._texts(), delimiter=self._delimiter, strict=True)
        while True:
            self._first = self.lines + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield self._broken(str(error))
                if self.lines - self._first > 1 or "unexpected end" in str(error):
                    return
                continue
            if cells is None:
                return
            if named and self.lines == 1:
                continue
            if not any(cells):
                self.blank += 1
                jsonl.refuse_blanks(self.path, self.blank, self.lines)
            elif not self._header:
                self._header = tuple(cell.strip() for cell in cells)
                if fault := _header_fault(self._header):
                    yield fault.bad_line(self._first)
                    return
            else:
                yield self._row(cells)

    def _broken(self, error: str) -> BadLine:
        reason, fix = f"invalid CSV: {error}", "write the file with a CSV library, which quotes what must be quoted"
        if "unexpected end" in error:
            reason, fix = "a quote opens in this row and never closes", 'close it, and write a quote inside text as ""'
        elif "new-line character" in error:
            reason, fix = "lines end in CR alone", "end lines with LF: tr '\\r' '\\n' < IN > OUT"
        elif "field limit" in error:
            reason = f"a cell is longer than {jsonl.MAX_LINE_BYTES // 2**20} MiB; a quote may be open"
        return BadLine(self._first, None, None, "bad_csv", reason, fix)

    def _row(self, cells: list[str]) -> Record | BadLine:
        if len(cells) != len(self._header):
            reason = f"the row has {len(cells)} cells, and the first line names {len(self._header)} columns"
            fix = f"put text that holds a {self._delimiter!r} or a line feed between double quotes"
            return BadLine(self._first, None, None, "bad_csv", reason, fix)
        row: dict[str, JsonValue] = dict(zip(self._header, cells, strict=True))
        try:
            for name in JSON_COLUMNS & row.keys():
                row[name] = _json_cell(str(row[name]), name)
        except Fault as fault:
            return fault.bad_line(self._first)
        return Record(self._first, row)

    def _texts(self) -> Iterator[str]:
        """Yields the file's lines as text, from which the csv reader assembles rows."""
        if self._file is None:
            return
        while raw := self._file.readline(jsonl.MAX_LINE_BYTES + 1):
            self.lines += 1
            if not self.lines % 1000:
                self.done_bytes = position(self._file)
            if len(raw) > jsonl.MAX_LINE_BYTES:
                jsonl.skip_line(self._file)
                jsonl.refuse_long()
            self.bom = self.bom or (self.lines == 1 and raw.startswith(BOM))
            text = decode(raw, first=self.lines == 1) + "\n"
            if "\0" in text:
                fix = "remove it: tr -d '\\000'"
                raise Fault("nul", "the text holds a NUL character", fix, offset=text.index("\0"))
            if self.lines - self._first >= MAX_ROW_LINES:
                reason = f"a row goes on over more than {MAX_ROW_LINES:,} lines; a quote may be open"
                raise Fault("bad_csv", reason, 'close it, and write a quote inside text as ""')
            yield text


def _delimiter(head: bytes, usual: str) -> str:
    """Returns the delimiter of a file: it cuts the header into several names, and the most rows into as many cells.

    Args:
        head: The first bytes of the file.
        usual: The delimiter of such files, which wins where several cut the rows equally well.
    """
    text = head.decode("utf-8-sig", errors="replace").lstrip("\r\n")
    marks = [usual, *(mark for mark in DELIMITERS if mark != usual)]
    fitting = {mark: _equal_rows(text, mark) for mark in marks}
    best = max(marks, key=fitting.__getitem__)  # the first of equals
    return best if fitting[best] else usual


def _equal_rows(text: str, delimiter: str) -> int:
    """Counts the first rows with as many cells as the header; zero where the header is one name."""
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    count, names = 0, 0
    try:
        for cells in islice((row for row in reader if row), SAMPLED_ROWS):
            names = names or len(cells)
            count += len(cells) == names > 1
    except csv.Error:  # a delimiter inside a quoted name, or the cut at the end of the sample
        pass
    return count


def _header_fault(header: tuple[str, ...]) -> Fault | None:
    """Returns the fault of a header line; None where it has none."""
    if empty := [number for number, name in enumerate(header, 1) if not name]:
        reason = f"column {empty[0]} has no name in the first line, which names the columns"
        fix = "name it, or leave it out (pandas: to_csv(index=False))" if empty[0] == 1 else "name it, or leave it out"
        return Fault("bad_header", reason, fix)
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        return Fault("bad_header", f"the first line names the column {twice[0]!r} twice", "name each column once")
    return None


def _json_cell(cell: str, name: str) -> JsonValue:
    if not cell.strip():
        return None
    try:
        return parse_value(cell)
    except Fault as fault:
        found = "is a list as Python shows it, not JSON" if _is_python(cell) else f"is no JSON list ({fault.reason})"
        raise Fault("bad_json", f"the cell of {name} {found}", "write it as json.dumps does", at=(name,)) from None


def _is_python(cell: str) -> bool:
    """Returns whether a cell holds a literal of Python: a list of a data frame that was written as text."""
    try:
        return len(cell) <= MOST_LITERAL_CHARACTERS and isinstance(ast.literal_eval(cell), list | dict)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
