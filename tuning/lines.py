"""Reading a ``.jsonl`` file strictly: one JSON object a line, and each line that is none is named, not raised.

``json`` forgives duplicate keys, NaN and lone surrogates, all of which hurt later (in the tokenizer, in SQL, in
another reader); here each is refused with its column. A line is read with a bound, so that a file without a line feed
is refused before it fills the memory. Columns and bytes count from 1, columns in characters.
"""

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from ..settings.errors import DataError

MAX_LINE_BYTES = 16 * 2**20
SHOWN_BAD_LINES = 100

Where = tuple[str | int, ...]
"""The way to a value inside a line: keys and list indices, for example ``("messages", 2, "content")``."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """One line that cannot be used: where, why, and what to do.

    Attributes:
        line: Counted from 1.
        column: In characters, from 1; None where the line is no text at all.
        byte: In the line, from 1; only where there is no column.
        kind: A stable word to count and to match on.
    """

    line: int
    column: int | None
    byte: int | None
    kind: str
    reason: str
    fix: str

    def __str__(self) -> str:
        place = f"column {self.column}" if self.byte is None else f"byte {self.byte}"
        return f"line {self.line}, {place}: {self.reason}"


@dataclass(slots=True)
class BadLines:
    """Every bad line counted, the first hundred kept."""

    shown: list[BadLine] = field(default_factory=list[BadLine])
    counts: Counter[str] = field(default_factory=Counter[str])

    def add(self, bad: BadLine) -> None:
        """Count a bad line, and keep it while there is room."""
        self.counts[bad.kind] += 1
        if len(self.shown) < SHOWN_BAD_LINES:
            self.shown.append(bad)

    @property
    def total(self) -> int:
        """How many there are."""
        return self.counts.total()


class Fault(Exception):  # noqa: N818  (never leaves this module and formats: it becomes a BadLine)
    """What is wrong with the line at hand; ``at`` is a way into it, or a 0-based offset."""

    def __init__(self, kind: str, reason: str, fix: str, *, at: Where | int = 0, byte: int | None = None) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.fix, self.at, self.byte = kind, reason, fix, at, byte

    def bad_line(self, number: int, text: str) -> BadLine:
        """This fault as a bad line; ``text`` is searched for the column."""
        if self.byte is not None:
            return BadLine(number, None, self.byte, self.kind, self.reason, self.fix)
        offset = self.at if isinstance(self.at, int) else offset_of(text, self.at)
        return BadLine(number, offset + 1, None, self.kind, self.reason, self.fix)


@dataclass(frozen=True, slots=True)
class Line:
    """One line that holds a JSON object."""

    number: int
    text: str
    value: dict[str, Any]


@dataclass(slots=True)
class LineFile:
    """A ``.jsonl`` file, plain or gzipped; iterating gives its lines, good and bad, and fills the counts."""

    path: Path
    lines: int = 0
    blank: int = 0
    crlf: int = 0
    bom: bool = False

    def __iter__(self) -> Iterator[Line | BadLine]:
        try:
            with _open(self.path) as file:
                while raw := file.readline(MAX_LINE_BYTES + 1):
                    self.lines += 1
                    line = self._line(raw, file)
                    if line is not None:
                        yield line
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(
                f"{self.path} is a damaged gzip file (after line {self.lines}: {error}).",
                hint="Test it with `gzip -t`, and write or copy it again.",
            ) from None
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be read ({error.strerror}).", hint="Check the path and its permissions."
            ) from None

    def _line(self, raw: bytes, file: IO[bytes]) -> Line | BadLine | None:
        text = ""
        try:
            if len(raw) > MAX_LINE_BYTES:
                _skip_rest(file)
                _refuse_long()
            text = _decode(raw, first=self.lines == 1)
            if self.lines == 1 and raw.startswith(b"\xef\xbb\xbf"):
                self.bom = True
            self.crlf += text.endswith("\r")
            if not text.strip():
                self.blank += 1
                return None
            return Line(self.lines, text, _parse(text))
        except Fault as fault:
            return fault.bad_line(self.lines, text)


def _open(path: Path) -> IO[bytes]:
    if path.is_dir():
        raise DataError(f"{path} is a folder.", hint="Name one .jsonl file in it.")
    if not path.exists():
        raise DataError(f"{path} does not exist.", hint="Check the path; it is read on the machine that prepares.")
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise DataError(
            f"{path.name} is no .jsonl file, and other containers are not read yet.",
            hint="Write one JSON object a line, into a file whose name ends in .jsonl or .jsonl.gz.",
        )
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(path, "rb")) if gzipped else path.open("rb")


def _skip_rest(file: IO[bytes]) -> None:
    while (more := file.readline(MAX_LINE_BYTES)) and not more.endswith(b"\n"):
        pass


def _refuse_long() -> NoReturn:
    raise Fault(
        "line_too_long",
        f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB",
        "split it into rows of their own, one JSON object a line",
        byte=MAX_LINE_BYTES + 1,
    )


def _decode(raw: bytes, *, first: bool) -> str:
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


def _parse(text: str) -> dict[str, Any]:
    try:
        value = _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise _syntax_fault(text, error) from None
    except _DuplicateKeyError as error:
        raise _duplicate_fault(text, error.key) from None
    except _NotJsonError as error:
        raise Fault(
            "not_finite" if error.scalar[-1].isalpha() else "number_too_long",
            f"{error.scalar[:20]} is no JSON number" if error.scalar[-1].isalpha() else "a number has too many digits",
            "write a finite number, text or null",
            at=_offset_of_scalar(text, error.scalar),
        ) from None
    except RecursionError:
        raise Fault("too_deep", "the line is nested too deeply", "write flat rows; see the formats") from None
    if not isinstance(value, dict):
        raise _not_an_object(text, value)
    _refuse_bad_characters(text)
    return value  # pyright: ignore[reportUnknownVariableType]  (JSON)


def _syntax_fault(text: str, error: json.JSONDecodeError) -> Fault:
    kind, reason = "bad_json", f"invalid JSON: {error.msg[0].lower()}{error.msg[1:]}"
    fix = "write the line with a JSON library (json.dumps), not by hand"
    if error.msg == "Extra data":
        reason, fix = "a second value follows on the same line", "put each object on a line of its own"
    elif text.lstrip().startswith("["):
        kind, reason, fix = "array", "the file is a JSON array", _ARRAY_FIX
    elif text.strip() == "{":
        reason, fix = "the object goes on over several lines", "write one object a line: jq -c . IN > OUT"
    elif "control character" in error.msg:
        fix = "escape control characters inside text (a line feed is \\n, a tab \\t)"
    return Fault(kind, reason, fix, at=error.pos)


_ARRAY_FIX = "write one object a line: jq -c '.[]' IN > OUT"


def _not_an_object(text: str, value: object) -> Fault:
    at = len(text) - len(text.lstrip())
    if isinstance(value, list):
        return Fault("array", "the line is an array", _ARRAY_FIX, at=at)
    return Fault("not_an_object", "the line is no JSON object", 'write {"instruction": …, "output": …}', at=at)


def _duplicate_fault(text: str, key: str) -> Fault:
    seen: set[Where] = set()
    at = 0
    for way, offset, is_key in places(text):
        if is_key and way[-1] == key and way in seen:
            at = offset
            break
        if is_key:
            seen.add(way)
    return Fault("duplicate_key", f"the key {key!r} stands twice in one object", "keep one of them", at=at)


_ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*(\\u(?:0000|d[89a-f][0-9a-f]{2}))", re.IGNORECASE)


def _refuse_bad_characters(text: str) -> None:
    r"""Refuse ``\u0000`` and lone surrogates, which JSON allows and tokenizers and databases don't."""
    if "\\u" not in text:
        return
    at = 0
    while found := _ESCAPED.search(text, at):
        start, code = found.start(1), found[1][2:].lower()
        at = found.end()
        if code == "0000":
            raise Fault("nul", "the text holds a NUL character", "remove \\u0000", at=start)
        follows = text[at : at + 6].lower()
        if code < "dc00" and re.fullmatch(r"\\ud[c-f][0-9a-f]{2}", follows):
            at += 6
            continue
        raise Fault("surrogate", f"\\u{code} is half a character", "write the whole character as UTF-8", at=start)


class _DuplicateKeyError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class _NotJsonError(ValueError):
    def __init__(self, scalar: str) -> None:
        super().__init__(scalar)
        self.scalar = scalar


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _DuplicateKeyError(key)
    return value


def _refuse_constant(scalar: str) -> NoReturn:
    raise _NotJsonError(scalar)


_MAX_DIGITS = 400


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _NotJsonError(digits)
    return int(digits)


_decoder = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_int=_integer)

_TOKEN = re.compile(r'("(?:[^"\\]|\\.)*")|([{}\[\],:])|([^\s{}\[\],:"]+)', re.DOTALL)


def places(text: str) -> Iterator[tuple[Where, int, bool]]:
    """Every key and every value of a JSON text: the way to it, its 0-based offset, and whether it is a key."""
    ways: list[str | int] = []
    key_next = False
    for found in _TOKEN.finditer(text):
        string, mark, _ = found.groups()
        if mark == ":":
            continue
        if mark in ("}", "]"):
            key_next = False
            if ways:
                ways.pop()
        elif mark == ",":
            last = ways[-1] if ways else 0
            key_next = isinstance(last, str)
            if isinstance(last, int) and ways:
                ways[-1] = last + 1
        elif key_next and string:
            key_next = False
            ways[-1] = _unquoted(string)
            yield tuple(ways), found.start(), True
        else:
            yield tuple(ways), found.start(), False
            if mark == "{":
                ways.append("")
                key_next = True
            elif mark == "[":
                ways.append(0)


def _unquoted(string: str) -> str:
    try:
        return json.loads(string, strict=False)
    except ValueError:
        return string[1:-1]


def offset_of(text: str, way: Where) -> int:
    """Where the value stands that ``way`` leads to; 0 where there is none."""
    return next((offset for place, offset, is_key in places(text) if place == way and not is_key), 0)


def offset_of_key(text: str, way: Where) -> int:
    """Where the key stands that ``way`` ends in; 0 where there is none."""
    return next((offset for place, offset, is_key in places(text) if place == way and is_key), 0)


def _offset_of_scalar(text: str, scalar: str) -> int:
    for _, offset, is_key in places(text):
        if not is_key and text.startswith(scalar, offset):
            return offset
    return 0
