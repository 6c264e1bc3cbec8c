"""Reads a ``.jsonl`` file: one JSON object a line. A faulty line is reported, not raised.

A line is read with a bound, so that a file without a line feed is refused before it fills the memory. The rules about
the JSON itself are in strict_json.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from ...errors import LimitError
from .faults import BadLine, Fault
from .gzip_file import opened, position
from .record import Record
from .strict_json import parse

MAX_BLANK_LINES = 2_000_000
MAX_LINE_BYTES = 16 * 2**20
BOM = b"\xef\xbb\xbf"


@dataclass(slots=True)
class LineFile:
    """Reads a ``.jsonl`` file, plain or gzipped; iterating yields its rows and bad lines, and fills the counts.

    Attributes:
        lines: Lines read so far, bad and blank ones included.
        done_bytes: Bytes of the file itself (packed bytes of a gzip) read so far; updated every thousand lines.
        notes: Remarks for a person about how the file was read.
    """

    path: Path
    lines: int = 0
    blank: int = 0
    crlf: int = 0
    bom: bool = False
    done_bytes: int = 0

    def __iter__(self) -> Iterator[Record | BadLine]:
        opens = False  # the first line opens an object that may go on over the next lines: one fault, not one a line
        with opened(self.path) as file:
            while raw := file.readline(MAX_LINE_BYTES + 1):
                self.lines += 1
                if not self.lines % 1000:
                    self.done_bytes = position(file)
                line = self._line(raw, file)
                if opens and isinstance(line, BadLine) and not raw.lstrip().startswith(b"{"):
                    break
                if line is not None:
                    opens = self.lines - self.blank == 1 and raw.removeprefix(BOM).strip() == b"{"
                    yield line
                if isinstance(line, BadLine) and self.lines - self.blank == 1 and _opens_array(raw):
                    break
            self.done_bytes = position(file)

    def _line(self, raw: bytes, file: IO[bytes]) -> Record | BadLine | None:
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
            return Record(self.lines, parse(text))
        except Fault as fault:
            return fault.bad_line(self.lines)

    @property
    def notes(self) -> list[str]:
        """Returns remarks for a person about how the file was read."""
        return reading_notes(bom=self.bom, crlf=self.crlf, blank=self.blank)


def _opens_array(raw: bytes) -> bool:
    """Returns whether a first line opens an array that goes on over the next lines."""
    start = raw.removeprefix(BOM).strip()
    return start.startswith(b"[") and not start.endswith(b"]")


def reading_notes(*, bom: bool, crlf: int, blank: int) -> list[str]:
    """Returns remarks about what a reader corrected in the file."""
    notes = ["a byte order mark at the start was skipped"] if bom else []
    if crlf:
        notes.append(f"{crlf} {'line ends' if crlf == 1 else 'lines end'} in CR LF, which was taken as LF")
    if blank:
        notes.append(f"{blank} blank {'line was' if blank == 1 else 'lines were'} skipped")
    return notes


def refuse_blanks(path: Path, blank: int, line: int) -> None:
    """Refuses a file of blank lines, of which a small gzip can hold millions."""
    if blank > MAX_BLANK_LINES:
        raise LimitError(
            f"{path.name} holds more than {MAX_BLANK_LINES:,} blank lines (up to line {line}, column 1).",
            hint="Remove them: grep -v '^$' IN > OUT",
        )


def skip_line(file: IO[bytes]) -> None:
    """Reads up to the next line feed and discards the bytes."""
    while (more := file.readline(MAX_LINE_BYTES)) and not more.endswith(b"\n"):
        pass


def refuse_long(row: str = "line") -> NoReturn:
    """Refuses a row that is longer than the limit of a row."""
    raise Fault(
        "line_too_long",
        f"the {row} is longer than {MAX_LINE_BYTES // 2**20} MiB",
        "split it into rows of their own, one JSON object a line",
        byte=MAX_LINE_BYTES + 1,
    )


def decode(raw: bytes, *, first: bool) -> str:
    """Decodes a line from UTF-8 and removes its line feed; ``first`` skips a byte order mark.

    Raises:
        Fault: The line is not UTF-8.
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
