"""Reading a ``.json`` file: one array of objects, element by element, so that a large file needs little memory.

A scanner over the bytes finds where each element ends; the element itself is then read as strictly as a line of a
``.jsonl`` file. Lines and columns are those of the file, however its objects are laid out. A ``.json`` file that
holds one object a line, as many do, is read as the ``.jsonl`` that it is.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from . import lines
from .faults import BadLine, Fault
from .lines import BOM, Line, LineFile, decode, place, reading_notes, refuse_long
from .streams import opened, position, start_of
from .strict_json import parse

CHUNK_BYTES = 1 << 18
_IN_STRING = re.compile(rb'["\\]')
_OUTSIDE = re.compile(rb'["{}\[\],]')
_SPACE = b" \t\r\n"
_SPACES = re.compile(rb"[ \t\r\n]*")
_CONTINUATION = bytes(range(0x80, 0xC0))  # the bytes of UTF-8 that begin no character
_NEXT = {("[", b"["): "first", ("first", b"]"): "end", (",", b","): "value", (",", b"]"): "end"}
"""The marks of the array itself: what may come before each, and what comes after it."""
_WRONG = {
    "[": "the file does not begin with [",
    ",": "a comma is missing between two elements",
    "end": "something follows the array",
}
_LAYOUT_FIX = "write the file with a JSON library (json.dump), not by hand"


@dataclass(slots=True)
class ArrayFile:
    """A ``.json`` file, plain or gzipped; iterating gives its rows, good and bad, and fills the counts.

    Attributes:
        lines: Elements read so far.
        done_bytes: Of the file itself, read so far.
    """

    path: Path
    lines: int = 0
    blank: int = 0
    done_bytes: int = 0
    notes: list[str] = field(default_factory=list[str])

    def __iter__(self) -> Iterator[Line | BadLine]:
        start = start_of(self.path, 1 << 12).removeprefix(BOM).lstrip(_SPACE)
        return self._as_lines() if start.startswith(b"{") else self._elements()

    def _as_lines(self) -> Iterator[Line | BadLine]:
        """One object a line. Where the first line is no whole object, the file is one object, and that says so."""
        inner = LineFile(self.path)
        for line in inner:
            self.lines, self.done_bytes, self.blank = inner.lines, inner.done_bytes, inner.blank
            if isinstance(line, BadLine) and line.kind == "bad_json" and line.line == 1:
                reason = "the file is one JSON object, not an array of rows"
                fix = "write the array alone, for example jq '.data' IN > OUT"
                yield BadLine(1, 1, None, "not_an_array", reason, fix)
                return
            yield line
        self.lines, self.blank = inner.lines, inner.blank
        self.notes = [*inner.notes, "the file holds one object a line, so it was read as .jsonl"]

    def _elements(self) -> Iterator[Line | BadLine]:
        with opened(self.path) as file:
            scanner = _Scanner(file)
            for element in scanner.elements():
                self.lines += 1
                self.done_bytes = position(file)
                yield element if isinstance(element, BadLine) else self._element(element)
            self.done_bytes = position(file)
        self.notes = reading_notes(bom=scanner.bom, crlf=0, blank=0)

    def _element(self, raw: "_Element") -> Line | BadLine:
        text = ""
        try:
            if raw.too_long:
                refuse_long("element")
            text = decode(raw.data, first=False)
            return Line(raw.line, text, parse(text, row="element"), raw.column)
        except Fault as fault:
            if fault.byte is not None and not raw.too_long:
                head = raw.data[: fault.byte - 1]
                line, byte = place(head.decode("latin-1") + " ", len(head), raw.line, raw.byte)
                return BadLine(line, None, byte, fault.kind, fault.reason, fault.fix)
            return Line(raw.line, text, {}, raw.column).bad(fault)


@dataclass(frozen=True, slots=True)
class _Element:
    """The bytes of an element, and where it begins: line, column in characters and in bytes, each from 1."""

    data: bytes
    line: int
    column: int
    byte: int
    too_long: bool


class _Scanner:
    """Finds the elements of the array that a file is."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.bom = False
        self._line: int = 1
        self._column: int = 1
        self._byte: int = 1

    def elements(self) -> Iterator[_Element | BadLine]:
        """Each element; a fault between elements is the last thing that comes."""
        data, at = self._file.read(CHUNK_BYTES), 0
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            yield self._fault("not_utf8", "the file is UTF-16, not UTF-8", "convert it: iconv -f UTF-16 -t UTF-8")
            return
        if data.startswith(BOM):
            self.bom, at = True, len(BOM)
        state = "["
        while True:
            at, data = self._skip_space(data, at)
            if not data:
                break
            byte = data[at : at + 1]
            if (state, byte) in _NEXT:
                state = _NEXT[state, byte]
                self._move(byte)
                at += 1
                continue
            if state in _WRONG or byte in (b",", b"]"):
                wrong = _WRONG.get(state, "an element is missing before this mark")
                yield self._fault("bad_json", wrong, _LAYOUT_FIX)
                return
            element, data, at = self._element(data, at)
            if element is None:
                yield self._fault("bad_json", "the file ends inside of this element", "write the file again, whole")
                return
            yield element
            state = ","
        if state != "end":
            yield self._fault("bad_json", "the file ends before the array does", "write the file again, whole")

    def _fault(self, kind: str, reason: str, fix: str) -> BadLine:
        return BadLine(self._line, self._column, None, kind, reason, fix)

    def _skip_space(self, data: bytes, at: int) -> tuple[int, bytes]:
        """On to the next byte that is no white space; no data where the file ends before it."""
        while True:
            found = _SPACES.match(data, at)
            end = found.end() if found else at
            self._move(data[at:end])
            if end < len(data):
                return end, data
            data, at = self._file.read(CHUNK_BYTES), 0
            if not data:
                return 0, b""

    def _move(self, passed: bytes) -> None:
        feeds = passed.count(b"\n")
        if feeds:
            self._line += feeds
            self._column = self._byte = 1
            passed = passed[passed.rindex(b"\n") + 1 :]
        self._byte += len(passed)
        self._column += len(passed.translate(None, _CONTINUATION))

    def _element(self, data: bytes, at: int) -> tuple[_Element | None, bytes, int]:
        """The element that begins at ``at``, and what was read and not used; None where the file ends in it."""
        begin = (self._line, self._column, self._byte)
        parts: list[bytes] = []
        size, depth, in_string, start, too_long = 0, 0, False, at, False
        while True:
            end, at, depth, in_string = _end_of(data, at, depth, in_string=in_string)
            part = data[start : len(data) if end is None else end]
            size += len(part)
            too_long = too_long or size > lines.MAX_LINE_BYTES
            self._move(part)
            if too_long:
                parts.clear()
            else:
                parts.append(part)
            if end is not None:
                return _Element(b"".join(parts), *begin, too_long), data, end
            rest = at - len(data)  # 1 where the last byte was a backslash, whose next byte is to be passed over
            data, start, at = self._file.read(CHUNK_BYTES), 0, rest
            if not data:
                self._line, self._column, self._byte = begin
                return None, b"", 0


def _end_of(data: bytes, at: int, depth: int, *, in_string: bool) -> tuple[int | None, int, int, bool]:
    """Where an element ends in a chunk, or None; and the state at the chunk's end: position, depth, in a string."""
    while True:
        found = (_IN_STRING if in_string else _OUTSIDE).search(data, at)
        if found is None:
            return None, max(at, len(data)), depth, in_string
        at = found.end()
        mark = found[0]
        if mark == b"\\":
            at += 1
        elif mark == b'"':
            in_string = not in_string
        elif mark in b"{[":
            depth += 1
        elif depth == 0:  # a comma or a bracket of the array itself: a bare number or word ends before it
            return found.start(), at, depth, in_string
        elif mark in b"}]":
            depth -= 1
            if depth == 0:
                return at, at, depth, in_string
