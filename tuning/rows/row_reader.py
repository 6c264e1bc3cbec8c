"""Reads the rows of a dataset file as canonical rows, whatever their format, and collects every bad line.

The format is derived from the keys of *all* rows: a file whose rows have two formats is refused with the line numbers
of both. Nothing is raised before the whole file is read.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ..files.faults import BadLine, Fault
from ..files.parts import content_bytes, content_sha256
from ..files.readers import container
from ..files.record import Container, Record
from ..files.strict_json import JsonObject
from . import chat, instruction, keys, preference, sharegpt
from .column_names import ColumnNames
from .data_file import GIVE_UP_LINES, DataFile
from .fields import count_keys
from .formats import FORMATS, KNOWN_KEYS, Format, candidates, recognise
from .keys import UnknownKeys, refuse_keys
from .row import Example, Row, Unpaired
from .row_limits import check_keys, check_turns
from .table_shapes import LOOKED_AT, table_fault

KEPT_LINE_NUMBERS = 100
EMPTY = (None, "")
"""Values that say as little as an absent key does: a CSV has an empty cell for each."""
KEPT_KEY_SETS = 1000

Convert = Callable[[JsonObject, int, Counter[str]], Example]
"""A function that turns a row and its line into a canonical row; it counts unused keys inside messages."""

CONVERT: dict[str, Convert] = {
    "alpaca": instruction.alpaca,
    "chat": chat.chat_row,
    "prompt-completion": instruction.completion,
    "prompt-response": instruction.pair("prompt", "response"),
    "question-answer": instruction.pair("question", "answer"),
    "question-response": instruction.pair("question", "response"),
    "instruction-response": instruction.pair("instruction", "response", "context"),
    "sharegpt": sharegpt.sharegpt_row,
    "text": instruction.plain_text,
    "openai-preference": preference.openai_preference,
    "preference": preference.preference,
    "unpaired": preference.unpaired,
}
"""The reader of each format."""


class Rows:
    """Reads a dataset file once, in bounded memory; iterating yields its good rows and its bad lines.

    Rows of preference formats are checked and counted; only ``examples`` yields them. Rows of a second format are
    yielded as bad lines at the end, when the rarer format is known.

    Args:
        path: The file.
        columns: Our names to the file's.
        unknown_keys: The treatment of keys that are neither read nor known to be harmless.

    Attributes:
        container: The file as records.
        data: The findings without the rows themselves; updated with each row, and complete, with the content's
            hash, when the iteration has ended.

    Raises:
        DataError: The file does not exist or cannot be read.
        SettingsError: ``columns`` names no format.
    """

    def __init__(
        self, path: Path, columns: Mapping[str, str] | None = None, *, unknown_keys: UnknownKeys = "warn"
    ) -> None:
        self.data = DataFile(path=path, sha256="", size_bytes=0)
        self._unknown_keys = unknown_keys
        self._first_lines: dict[str, int] = {}
        self._names = ColumnNames(columns or {}, KNOWN_KEYS)
        self._formats = candidates(self._names)
        self.container: Container = container(path)
        self._by_keys: dict[tuple[str, ...], tuple[Format, frozenset[str]] | Fault] = {}
        self._numbers: dict[str, list[int]] = {}

    @property
    def done_bytes(self) -> int:
        """Returns the bytes of the file that have been read, for a progress bar."""
        return self.container.done_bytes

    @property
    def gave_up(self) -> bool:
        """Returns whether reading stopped early because of too many bad lines."""
        return self.data.bad.total >= GIVE_UP_LINES

    def __iter__(self) -> Iterator[Row | BadLine]:
        for example in self.examples():
            if isinstance(example, Row | BadLine):
                yield example

    def examples(self) -> Iterator[Example | BadLine]:
        """Yields every good row, preferences too, and every bad line."""
        data = self.data
        for record in self.container:
            data.lines = self.container.lines
            found = record if isinstance(record, BadLine) else self._example(record)
            if isinstance(found, BadLine):
                data.bad.add(found)
            elif found is not None:
                data.good += 1
            if found is not None:
                yield found
            if self.gave_up:
                break
        for bad in self._finished():
            data.bad.add(bad)
            yield bad
        data.bad.shown.sort(key=lambda bad: bad.line)

    def _example(self, record: Record) -> Example | BadLine | None:
        """Returns a canonical row, a bad line, or None for a row of another format than the first."""
        data, given, line = self.data, record.value, record.number
        try:
            check_keys(given)
            value = self._names.renamed(given)
            known, unused = self._recognise(value)
            data.by_format[known.name] += 1
            numbers = self._numbers.setdefault(known.name, [])
            if len(numbers) < KEPT_LINE_NUMBERS:
                numbers.append(line)
            self._ignore(value, unused)
            found = CONVERT[known.name](value, line, data.ignored_keys)
            check_turns(found)
            if len(data.ignored_keys) > len(self._first_lines):
                for key in data.ignored_keys:
                    self._first_lines.setdefault(key, line)
        except Fault as fault:
            table = table_fault(given, KNOWN_KEYS) if fault.kind in LOOKED_AT else None
            bad = (table or self._names.located(fault)).bad_line(line)
            return replace(bad, reason=f"{bad.reason} ({record.place})") if record.place else bad
        if len(self._numbers) > 1 and known.name != next(iter(self._numbers)):
            return None
        if isinstance(found, Unpaired):
            data.labels[found.label] += 1
        return found

    def _ignore(self, value: JsonObject, unused: frozenset[str]) -> None:
        """Counts the keys of a row that its format does not read, and refuses those that change the row's meaning."""
        if unused:
            refuse_keys({key: value[key] for key in unused})
            count_keys(self.data.ignored_keys, {key for key in unused if value[key] not in EMPTY})

    def _recognise(self, value: JsonObject) -> tuple[Format, frozenset[str]]:
        """Returns a row's format, and the row's keys that the format does not know.

        A key without a value counts as absent, as in a table of several formats, unless the row has no format then.
        """
        names = tuple(value)
        given = tuple(key for key in names if value[key] not in EMPTY)
        known = self._known(given) if len(given) < len(names) else None
        if known is None or isinstance(known, Fault):
            known = self._known(names)
        if isinstance(known, Fault):
            raise known.with_traceback(None)  # a cached fault is raised many times; each raise would add a traceback
        return known

    def _known(self, names: tuple[str, ...]) -> tuple[Format, frozenset[str]] | Fault:
        """Returns the format of rows with these keys, and the keys that the format does not know; or the fault."""
        known = self._by_keys.get(names)
        if known is None:
            try:
                form = recognise(dict.fromkeys(names).keys(), self._formats)
                known = form, frozenset(names) - form.known
            except Fault as fault:
                known = fault
            if len(self._by_keys) < KEPT_KEY_SETS:
                self._by_keys[names] = known
        return known

    def _finished(self) -> list[BadLine]:
        """Completes ``data``, and returns the rows of the rarer formats as bad lines."""
        data = self.data
        data.sha256, data.size_bytes = content_sha256(data.path), content_bytes(data.path)
        data.lines = self.container.lines
        unknown = keys.unknown(data.ignored_keys)
        harmless = data.ignored_keys - unknown
        data.notes = [*self.container.notes, *_notes(data.ignored_keys if self._unknown_keys == "ignore" else harmless)]
        if self._unknown_keys == "warn":
            data.unknown_keys = unknown
        if self.gave_up:
            data.notes.append(f"reading stopped at line {data.lines}, after {data.bad.total} bad ones")
        if not data.by_format:
            return []
        data.format = data.by_format.most_common(1)[0][0]
        data.trains = next(known.trains for known in FORMATS if known.name == data.format)
        mixed = [bad for name in data.by_format if name != data.format for bad in self._mixed(name)]
        return [*mixed, *self._refused(unknown)] if self._unknown_keys == "refuse" else mixed

    def _refused(self, unknown: Counter[str]) -> Iterator[BadLine]:
        for key, count in unknown.items():
            line = self._first_lines.get(key, 1)
            fix = "leave the key out, map it with columns, or set unknown_keys to warn"
            yield BadLine(line, key, None, "unknown_key", f"the key {key!r} is not read", fix, count - 1)

    def _mixed(self, name: str) -> Iterator[BadLine]:
        data = self.data
        main, numbers = data.format, self._numbers[name]
        for number in numbers:
            also = data.by_format[name] - len(numbers) if number == numbers[-1] else 0
            reason = (
                f"a row of the {name} format in a file whose other {data.by_format[main]} rows are {main} "
                f"(line {self._numbers[main][0]})"
            )
            fix = "put the rows of each format into a file of its own"
            yield BadLine(number, None, None, "mixed_formats", reason, fix, also)


def rows(path: Path, columns: Mapping[str, str] | None = None, *, unknown_keys: UnknownKeys = "warn") -> Rows:
    """Returns a reader of the rows of a dataset file; see ``Rows``."""
    return Rows(path, columns, unknown_keys=unknown_keys)


def read(path: Path, columns: Mapping[str, str] | None = None) -> DataFile:
    """Reads a dataset file and checks every row of it.

    Args:
        path: A ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file, or one of these and ``.gz``.
        columns: Our names to the file's.

    Returns:
        The good rows in their order, and all findings. Bad lines are part of the result, not raised
        (``data_file.require_good`` raises).

    Raises:
        DataError: The file is missing, damaged, or of an unknown kind.
        SettingsError: ``columns`` names no format.
    """
    reading = rows(path, columns)
    good: list[Row] = []
    for example in reading.examples():
        if isinstance(example, Row):
            good.append(example)
        elif not isinstance(example, BadLine):
            reading.data.preferences.append(example)
    reading.data.rows = good
    return reading.data


def _notes(ignored: Counter[str]) -> list[str]:
    if not ignored:
        return []
    return ["keys that are not used: " + ", ".join(f"{key} ({n} rows)" for key, n in ignored.most_common(10))]
