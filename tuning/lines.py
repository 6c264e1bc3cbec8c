"""Reading a ``.jsonl`` file: one JSON object a line, and each line that is none is named, not raised.

A line is read with a bound, so that a file without a line feed is refused before it fills the memory; what is strict
about the JSON stands in strict_json.py. Columns and bytes count from 1, columns in characters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from ..settings.errors import LimitError
from .faults import BadLine, BadLines, Fault, Where
from .streams import GZIP, opened, position
from .strict_json import offset_of, parse

__all__ = ["BadLine", "BadLines", "Fault", "Line", "LineFile", "Where"]

MAX_BLANK_LINES = 2_000_000
MAX_LINE_BYTES = 16 * 2**20
BOM = b"\xef\xbb\xbf"


@dataclass(slots=True)
class Line:
    """One row as it was written.

    Attributes:
        number: The line on which it begins.
        text: The row's own text; it may go on over several lines.
        value: What it holds, by key.
        column: Where the text begins in its first line, 1-based.
    """

    number: int
    text: str
    value: dict[str, Any]
    column: int = 1

    def bad(self, fault: Fault) -> BadLine:
        """A fault of this row, with its place."""
        offset = fault.at if isinstance(fault.at, int) else offset_of(self.text, fault.at)
        return fault.bad_line(*place(self.text, offset, self.number, self.column))


def place(text: str, offset: int, line: int, column: int) -> tuple[int, int]:
    """Line and column of an offset into a text that begins at a line and a column."""
    before = text.count("\n", 0, offset)
    if not before:
        return line, column + offset
    return line + before, offset - text.rindex("\n", 0, offset)


@dataclass(slots=True)
class LineFile:
    """A ``.jsonl`` file, plain or gzipped; iterating gives its lines, good and bad, and fills the counts.

    Attributes:
        lines: Read so far, bad and blank ones too.
        done_bytes: Of the file itself (packed, if it is a gzip), read so far; brought up to date every thousand lines.
        notes: What a person should know about how it was read.
    """

    path: Path
    lines: int = 0
    blank: int = 0
    crlf: int = 0
    bom: bool = False
    done_bytes: int = 0

    def __iter__(self) -> Iterator[Line | BadLine]:
        with opened(self.path) as file:
            yield from self.between(file)

    def between(self, file: IO[bytes], end: int | None = None) -> Iterator[Line | BadLine]:
        """The lines from where an open file stands to its end, or to a byte where a line ends."""
        while (end is None or file.tell() < end) and (raw := file.readline(MAX_LINE_BYTES + 1)):
            self.lines += 1
            if not self.lines % 1000:
                self.done_bytes = position(file)
            line = self._line(raw, file)
            if line is not None:
                yield line
        self.done_bytes = position(file)

    def _line(self, raw: bytes, file: IO[bytes]) -> Line | BadLine | None:
        text = ""
        try:
            if len(raw) > MAX_LINE_BYTES:
                skip_line(file)
                refuse_long()
            text = decode(raw, first=self.lines == 1)
            if self.lines == 1 and raw.startswith(BOM):
                self.bom = True
            self.crlf += text.endswith("\r")
            if not text or text.isspace():
                self.blank += 1
                refuse_blanks(self.path, self.blank, self.lines)
                return None
            return Line(self.lines, text, parse(text))
        except Fault as fault:
            return Line(self.lines, text, {}).bad(fault)

    @property
    def packed(self) -> bool:
        """Whether the file is a gzip."""
        with self.path.open("rb") as file:
            return file.read(len(GZIP)) == GZIP

    @property
    def notes(self) -> list[str]:
        """What a person should know about how it was read."""
        return reading_notes(bom=self.bom, crlf=self.crlf, blank=self.blank)


def reading_notes(*, bom: bool, crlf: int, blank: int) -> list[str]:
    """What was mended on the way."""
    notes = ["a byte order mark at the start was skipped"] if bom else []
    if crlf:
        notes.append(f"{crlf} {'line ends' if crlf == 1 else 'lines end'} in CR LF, which was taken as LF")
    if blank:
        notes.append(f"{blank} blank {'line was' if blank == 1 else 'lines were'} skipped")
    return notes


def refuse_blanks(path: Path, blank: int, line: int) -> None:
    """Refuse a file that is mostly nothing, which a small gzip can hold endlessly."""
    if blank > MAX_BLANK_LINES:
        raise LimitError(
            f"{path.name} holds more than {MAX_BLANK_LINES:,} blank lines (up to line {line}, column 1).",
            hint="Remove them: grep -v '^$' IN > OUT",
        )


def skip_line(file: IO[bytes]) -> None:
    """Read on to the next line feed, keeping nothing."""
    while (more := file.readline(MAX_LINE_BYTES)) and not more.endswith(b"\n"):
        pass


def refuse_long(row: str = "line") -> NoReturn:
    """Refuse a row that is longer than any row may be."""
    raise Fault(
        "line_too_long",
        f"the {row} is longer than {MAX_LINE_BYTES // 2**20} MiB",
        "split it into rows of their own, one JSON object a line",
        byte=MAX_LINE_BYTES + 1,
    )


def decode(raw: bytes, *, first: bool) -> str:
    """A line's bytes as text, without its line feed; ``first`` skips a byte order mark.

    Raises:
        Fault: They are not UTF-8.
    """
    if first and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Fault(
            "not_utf8", "the file is UTF-16, not UTF-8", "convert it: iconv -f UTF-16 -t UTF-8 IN > OUT", byte=1
        )
    try:
        text = raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise Fault(
            "not_utf8",
            f"the byte 0x{raw[error.start]:02x} is not UTF-8",
            "save the file as UTF-8 (iconv converts)",
            byte=error.start + 1,
        ) from None
    return text.removesuffix("\n")
