"""Reads a ``.json`` file: one array of objects, element by element, so that a large file needs little memory.

``json`` itself finds where an element ends. The element is then parsed as strictly as a line of a ``.jsonl`` file. A
``.json`` file that holds one object a line, as many do, is read as the ``.jsonl`` file that it is.

Unusual: no streaming parser. ijson 3.6 (yajl) was tried and writes "?" where a file holds half a surrogate pair, which
changes a row in silence.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from . import jsonl
from .faults import BadLine, Fault
from .gzip_file import opened, position, start_of
from .jsonl import BOM, LineFile, reading_notes, refuse_long
from .record import Record
from .strict_json import JsonObject, parse, refuse_many_values

CHUNK_BYTES = 1 << 18
_SPACE = re.compile(r"[ \t\r\n]*")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_LAYOUT_FIX = "write the file with a JSON library (json.dump), not by hand"
_CUT_FIX = "write the file again, whole"
_ALONE_FIX = "write its rows alone, for example jq -c '.data[]' IN > OUT"
_CUT_CHARACTERS = 16
"""An error so near to the end of the text read may come from the cut: an escape or a word of JSON is shorter."""

_finder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
"""Finds the end of an element; its numbers are not converted."""


@dataclass(slots=True)
class ArrayFile:
    """Reads a ``.json`` file, plain or gzipped; iterating yields its rows and bad lines, and fills the counts.

    Attributes:
        lines: Elements read so far.
        done_bytes: Bytes of the file itself read so far.
        notes: Remarks for a person about how the file was read.
    """

    path: Path
    lines: int = 0
    blank: int = 0
    done_bytes: int = 0
    notes: list[str] = field(default_factory=list[str])

    def __iter__(self) -> Iterator[Record | BadLine]:
        start = start_of(self.path, 1 << 12).removeprefix(BOM).lstrip()
        return self._as_lines() if start.startswith(b"{") else self._elements()

    def _as_lines(self) -> Iterator[Record | BadLine]:
        """Yields the rows of a file that holds one object a line, or one object over several lines."""
        inner = LineFile(self.path)
        for line in inner:
            self.lines, self.done_bytes, self.blank = inner.lines, inner.done_bytes, inner.blank
            if isinstance(line, BadLine) and line.kind == "bad_json" and line.line == 1:
                yield self._whole()
                return
            yield line
        self.lines, self.blank = inner.lines, inner.blank
        self.notes = [*inner.notes, "the file holds one object a line, so it was read as .jsonl"]

    def _whole(self) -> Record | BadLine:
        """Returns the one object of a file that holds no array: a row over several lines, or what is no row."""
        self.lines = 1
        with opened(self.path) as file:
            raw = file.read(jsonl.MAX_LINE_BYTES + 1)
            self.done_bytes = position(file)
        try:
            value = _one_object(raw)
        except Fault as fault:
            place = (1, None) if fault.offset is None else _moved(raw.decode("utf-8-sig")[: fault.offset], 1, 1)
            return fault.bad_line(*place)
        self.notes = ["the file is one JSON object, so it was read as one row"]
        return Record(1, value)

    def _elements(self) -> Iterator[Record | BadLine]:
        with opened(self.path) as file:
            text = _Text(file)
            try:
                for number, column, element in _elements(text):
                    self.lines += 1
                    self.done_bytes = position(file)
                    yield _record(element, number, column)
            except Fault as fault:  # a fault of the array itself: nothing after it can be read
                yield fault.bad_line(text.line, text.column)
            self.done_bytes = position(file)
        self.notes = reading_notes(bom=text.bom, crlf=0, blank=0)


def _record(element: str, line: int, column: int) -> Record | BadLine:
    try:
        _refuse_other_encodings(element)
        return Record(line, parse(element, row="element"))
    except Fault as fault:
        place = (line, None) if fault.offset is None else _moved(element[: fault.offset], line, column)
        return fault.bad_line(*place)


def _refuse_other_encodings(element: str) -> None:
    if not element.isascii() and (found := _NOT_UTF8.search(element)):
        reason = f"the byte 0x{ord(found[0]) - 0xDC00:02x} is not UTF-8"
        raise Fault("not_utf8", reason, "save the file as UTF-8 (iconv converts)", offset=found.start())


def _elements(text: "_Text") -> Iterator[tuple[int, int, str]]:
    """Yields the elements of the array in a text: line and column where each begins, and the element's own text.

    Raises:
        Fault: The text is no array; the place is the text's current position.
    """
    if text.next() != "[":
        raise Fault("bad_json", "the file does not begin with [", _LAYOUT_FIX)
    text.move(1)
    follows = text.next() != "]"
    while follows and (first := text.next()):
        if first in ",]":
            raise Fault("bad_json", "an element is missing before this mark", _LAYOUT_FIX)
        yield text.line, text.column, text.element()
        follows = text.next() == ","
        if follows:
            text.move(1)
    mark = text.next()
    if mark != "]":
        reason = "a comma is missing between two elements" if mark else "the file ends before the array does"
        raise Fault("bad_json", reason, _LAYOUT_FIX if mark else _CUT_FIX)
    text.move(1)
    if text.next():
        raise Fault("bad_json", "something follows the array", _LAYOUT_FIX)


def _one_object(raw: bytes) -> JsonObject:
    """Returns the one object of a file's bytes.

    Raises:
        Fault: The bytes are too many, or are not one JSON object.
    """
    if len(raw) > jsonl.MAX_LINE_BYTES:
        raise Fault("not_an_array", "the file is one JSON object, not an array of rows", _ALONE_FIX)
    text = jsonl.decode(raw, first=True)
    if _followed(text):
        fix = "write one object a line: jq -c . IN > OUT"
        raise Fault("bad_json", "several objects stand in the file, and not one a line", fix)
    return parse(text, row="file")


def _followed(text: str) -> bool:
    """Returns whether a second object follows the first object of a text."""
    try:
        _, end = _finder.raw_decode(text, len(text) - len(text.lstrip()))
    except (json.JSONDecodeError, RecursionError):
        return False
    return text[end:].lstrip().startswith("{")


class _Text:
    """Holds the part of a file's text that is read and not used yet, and the place in the file where it begins."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")  # _record finds what is not UTF-8
        self._held = ""
        self._at = 0
        self._first = True
        self._ended = self.bom = False
        self.line = self.column = 1

    def next(self) -> str:
        """Moves to the next character that is no white space, and returns it; empty at the end of the file."""
        while True:
            space = _SPACE.match(self._held, self._at)
            self.move((space.end() if space else self._at) - self._at)
            if self._at < len(self._held) or self._ended:
                return self._held[self._at : self._at + 1]
            self._read()

    def move(self, count: int) -> None:
        """Moves over some characters of the held text."""
        end = self._at + count
        self.line, self.column = _moved(self._held[self._at : end], self.line, self.column)
        self._at = end

    def element(self) -> str:
        """Moves over the JSON value at the current position, and returns its text.

        Raises:
            Fault: The text here is no JSON value, is too long or is not UTF-8.
        """
        while (end := self._end()) is None:
            if len(self._held) - self._at > jsonl.MAX_LINE_BYTES:
                refuse_long("element")
            self._read()
        element = self._held[self._at : end]
        self.move(len(element))
        return element

    def _end(self) -> int | None:
        """Returns the end of the value at the current position; None where more of the file must be read to find it."""
        refuse_many_values(self._held, "element")
        try:
            _, end = _finder.raw_decode(self._held, self._at)
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated") or error.pos > len(self._held) - _CUT_CHARACTERS
            if cut and not self._ended:
                return None
            if cut and (error.msg.startswith("Unterminated") or error.pos >= len(self._held.rstrip())):
                raise Fault("bad_json", "the file ends inside of this element", _CUT_FIX) from None
            self.move(error.pos - self._at)
            reason = f"invalid JSON: {error.msg[0].lower()}{error.msg[1:]}"
            raise Fault("bad_json", reason, _LAYOUT_FIX) from None
        except RecursionError:
            raise Fault("too_deep", "the element is nested too deeply", "write flat rows; see the formats") from None
        return end if end < len(self._held) or self._ended else None

    def _read(self) -> None:
        """Reads as many characters as are held already, so that a long element is parsed a few times and not many."""
        first, self._first = self._first, False
        raw = self._file.read(max(CHUNK_BYTES, len(self._held) - self._at))
        if first and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise Fault("not_utf8", "the file is UTF-16, not UTF-8", "convert it: iconv -f UTF-16 -t UTF-8")
        if first and raw.startswith(BOM):
            self.bom, raw = True, raw[len(BOM) :]
        more = self._decoder.decode(raw, final=not raw)
        self._held, self._at, self._ended = self._held[self._at :] + more, 0, not raw


def _moved(passed: str, line: int, column: int) -> tuple[int, int]:
    """Returns line and column after a text that begins at a line and a column."""
    feeds = passed.count("\n")
    return (line + feeds, len(passed) - passed.rindex("\n")) if feeds else (line, column + len(passed))
