"""Row formats: what the keys of a dataset's rows mean, and one canonical row for all of them.

The format is found from the keys of *all* rows: a file whose rows are of two formats is refused with the line numbers
of both. A new format is one entry in ``FORMATS``: the keys that name it and a function that turns a row into a
canonical one. A row that fits two formats is of the one that knows the other's keys too; where neither does, it is
refused. Every bad line of a file is collected; nothing is raised before the whole file was read.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..settings.errors import SettingsError
from ..storage.manifest import file_sha256
from . import preferences
from .containers import Container, Record, container
from .conversations import chat_row, sharegpt_row
from .data_file import GIVE_UP_LINES, BadRowsError, DataFile, PreferenceRowsError, require_good
from .faults import BadLine, Fault
from .fields import KEPT_KEYS, count_keys
from .mapping import ColumnNames
from .pairs import alpaca, completion, pair, plain_text
from .rows import Example, Message, Preference, Row, Unpaired

__all__ = [
    "BadRowsError",
    "DataFile",
    "Example",
    "Message",
    "Preference",
    "PreferenceRowsError",
    "Row",
    "Unpaired",
    "require_good",
]

KEPT_LINE_NUMBERS = 100
KEPT_KEY_SETS = 1000

Convert = Callable[[dict[str, Any], int, Counter[str]], Example]
"""Turns a row with its line into a canonical one; keys inside messages that are not used are counted."""


@dataclass(frozen=True, slots=True)
class Format:
    """A row format.

    Attributes:
        name: As the receipt tells it.
        required: The keys that name it.
        optional: The keys that it may have beside.
        convert: Its reader.
        trains: Whether its rows are examples to train on; else they are preferences, for another kind of training.
    """

    name: str
    required: frozenset[str]
    optional: frozenset[str]
    convert: Convert
    trains: bool = True

    def covers(self, other: "Format") -> bool:
        """Whether every key that names the other format is one of this one's."""
        return other.required <= self.required | self.optional


class Rows:
    """Reads a dataset file once, in bounded memory; iterating gives its good rows and its bad lines.

    Rows of preference formats are checked and counted, and only given by ``examples``. Rows of a second format come as
    bad lines at the end, when it is known which format is the rarer.

    Args:
        path: The file.
        columns: Our names to the file's.

    Attributes:
        container: The file as records.
        data: What was found out, brought up to date with each row (without the rows themselves); complete, with the
            content's hash, when the iteration has ended.

    Raises:
        DataError: There is no such file, or it is none that can be read.
        SettingsError: ``columns`` names no format.
    """

    def __init__(self, path: Path, columns: Mapping[str, str] | None = None) -> None:
        self.data = DataFile(path=path, sha256="", size_bytes=0)
        self._names = ColumnNames(columns or {}, KNOWN_KEYS)
        self._formats = _candidates(self._names)
        self.container: Container = container(path)
        self._by_keys: dict[tuple[str, ...], tuple[Format, frozenset[str]] | Fault] = {}
        self._numbers: dict[str, list[int]] = {}

    @property
    def done_bytes(self) -> int:
        """Bytes of the file that have been read, for a progress bar."""
        return self.container.done_bytes

    @property
    def renames(self) -> bool:
        """Whether the file's columns have other names than ours."""
        return self._names.renames

    @property
    def gave_up(self) -> bool:
        """Whether there were so many bad lines that the rest of the file is not read."""
        return self.data.bad.total >= GIVE_UP_LINES

    def fresh(self, container: Container) -> "Rows":
        """The same reader with nothing read yet, of another container."""
        other = copy.copy(self)
        other.container, other._numbers = container, {}  # noqa: SLF001  (another one of ours)
        other.data = DataFile(path=self.data.path, sha256="", size_bytes=0)
        return other

    def take(self, form: str, numbers: Sequence[int], ignored: Counter[str]) -> None:
        """Count good rows that a fresh reader read.

        Args:
            form: Their format.
            numbers: Their lines.
            ignored: Keys of theirs that are not used.
        """
        data, known = self.data, self._numbers.setdefault(form, [])
        data.good += len(numbers)
        data.by_format[form] += len(numbers)
        known.extend(numbers[: KEPT_LINE_NUMBERS - len(known)])
        for key, count in ignored.items():
            if len(data.ignored_keys) < KEPT_KEYS or key in data.ignored_keys:
                data.ignored_keys[key] += count

    def __iter__(self) -> Iterator[Row | BadLine]:
        for example in self.examples():
            if isinstance(example, Row | BadLine):
                yield example

    def examples(self) -> Iterator[Example | BadLine]:
        """Every good row, preferences too, and every bad line."""
        yield from self.of(self.container)
        yield from self.finished()

    def of(self, records: Iterable[Record | BadLine]) -> Iterator[Example | BadLine]:
        """The good rows and bad lines of some records of the file; ``finished`` follows when all were given."""
        data = self.data
        for record in records:
            data.lines = self.container.lines
            found = record if isinstance(record, BadLine) else self._example(record.value, record.number)
            if isinstance(found, Fault) and not isinstance(record, BadLine):
                found = record.bad(self._names.located(found))
            if isinstance(found, BadLine):
                data.bad.add(found)
                yield found
                if self.gave_up:
                    break
            elif found is not None and not isinstance(found, Fault):
                data.good += 1
                yield found

    def finished(self) -> Iterator[BadLine]:
        """Bring what was found out to its end; the rows of the rarer formats come as bad lines."""
        for bad in self._finished():
            self.data.bad.add(bad)
            yield bad
        self.data.bad.shown.sort(key=lambda bad: bad.line)

    def _example(self, given: dict[str, Any], line: int) -> Example | Fault | None:
        """A canonical row; a fault; or None, for a row of another format than the first."""
        data = self.data
        try:
            value = self._names.renamed(given)
            known, unused = self._recognise(value)
            data.by_format[known.name] += 1
            numbers = self._numbers.setdefault(known.name, [])
            if len(numbers) < KEPT_LINE_NUMBERS:
                numbers.append(line)
            if unused:
                count_keys(data.ignored_keys, unused)
            found = known.convert(value, line, data.ignored_keys)
        except Fault as fault:
            return fault
        if len(self._numbers) > 1 and known.name != next(iter(self._numbers)):
            return None
        if isinstance(found, Unpaired):
            data.labels[found.label] += 1
        return found

    def _recognise(self, value: dict[str, Any]) -> tuple[Format, frozenset[str]]:
        """A row's format, and its keys that the format does not know."""
        keys = tuple(value)
        known = self._by_keys.get(keys)
        if known is None:
            try:
                form = recognise(value, self._formats)
                known = form, frozenset(value.keys() - form.required - form.optional)
            except Fault as fault:
                known = fault
            if len(self._by_keys) < KEPT_KEY_SETS:
                self._by_keys[keys] = known
        if isinstance(known, Fault):
            raise known.with_traceback(None)  # it is raised again and again, and would keep each place
        return known

    def _finished(self) -> list[BadLine]:
        """Bring what was found out to its end, and return the rows of the rarer formats as bad lines."""
        data = self.data
        data.sha256, data.size_bytes = file_sha256(data.path), data.path.stat().st_size
        data.lines, data.blank_lines = self.container.lines, self.container.blank
        data.notes = [*self.container.notes, *_notes(data.ignored_keys)]
        if self.gave_up:
            data.notes.append(f"reading stopped at line {data.lines}, after {data.bad.total} bad ones")
        if not data.by_format:
            return []
        data.format = data.by_format.most_common(1)[0][0]
        data.trains = next(known.trains for known in FORMATS if known.name == data.format)
        return [bad for name in data.by_format if name != data.format for bad in self._mixed(name)]

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
            yield BadLine(number, 1, None, "mixed_formats", reason, fix, also)


def rows(path: Path, columns: Mapping[str, str] | None = None) -> Rows:
    """The rows of a dataset file, one after the other; see ``Rows``."""
    return Rows(path, columns)


def read(path: Path, columns: Mapping[str, str] | None = None) -> DataFile:
    """Read a dataset file and check every row of it.

    Args:
        path: A ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file, or one of these and ``.gz``.
        columns: Our names to the file's.

    Returns:
        The good rows in their order, and all that was found out; bad lines are in it, not raised
        (``require_good`` raises).

    Raises:
        DataError: The file is missing, none that can be read, or damaged.
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


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuse a mapping that no file could have.

    Raises:
        SettingsError: It maps an unknown name, one column twice, or columns of no one format.
    """
    _candidates(ColumnNames(columns, KNOWN_KEYS))


def _candidates(names: ColumnNames) -> tuple["Format", ...]:
    """The formats that have every mapped column."""
    found = tuple(known for known in FORMATS if names.mapped <= known.required | known.optional)
    if not found:
        raise SettingsError(
            f"columns: {_listed(names.mapped)} belong to no one format.",
            hint="Map the columns of one: " + "; ".join(_listed(known.required) for known in FORMATS) + ".",
        )
    return found


def _notes(ignored: Counter[str]) -> list[str]:
    if not ignored:
        return []
    return ["keys that are not used: " + ", ".join(f"{key} ({n} rows)" for key, n in ignored.most_common(10))]


def recognise(value: dict[str, Any], formats: "tuple[Format, ...] | None" = None) -> Format:
    """The one format whose keys a row has.

    Raises:
        Fault: It has those of none, or of several.
    """
    formats = formats or FORMATS
    fitting = [known for known in formats if known.required <= value.keys()]
    found = [one for one in fitting if not any(_better(other, one) for other in fitting)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(known.name for known in found)
        raise Fault("ambiguous", f"the keys fit {names}", "keep the keys of one format, or map them with columns")
    nearest = max(formats, key=lambda known: len(known.required & value.keys()))
    keys = ", ".join(map(repr, list(value)[:8])) or "none"
    if missing := nearest.required - value.keys() if nearest.required & value.keys() else None:
        raise Fault(
            "missing_key",
            f"the row has no {_listed(missing)}",
            f"add it; a {nearest.name} row has {_listed(nearest.required)}",
        )
    known = "; ".join(dict.fromkeys(_listed(known.required) for known in formats if known.trains))
    raise Fault(
        "unknown_format", f"the keys ({keys}) fit no known format", f"name the keys as one of: {known}; or map them"
    )


def _better(one: Format, other: Format) -> bool:
    return one is not other and one.covers(other) and not other.covers(one)


def _listed(keys: frozenset[str] | set[str]) -> str:
    return " and ".join(repr(key) for key in sorted(keys))


def _keys(*names: str) -> frozenset[str]:
    return frozenset(names)


_TOOLS = ("tools", "functions", "parallel_tool_calls")
_PREFERENCE = _keys("prompt", "instruction", "input", "system", "conversations", *_TOOLS)

FORMATS: tuple[Format, ...] = (
    Format("alpaca", _keys("instruction", "output"), _keys("input", "system", "history", "text"), alpaca),
    Format("chat", _keys("messages"), _keys(*_TOOLS), chat_row),
    Format("prompt-completion", _keys("prompt", "completion"), _keys(*_TOOLS), completion),
    Format("prompt-response", _keys("prompt", "response"), frozenset(), pair("prompt", "response")),
    Format("question-answer", _keys("question", "answer"), frozenset(), pair("question", "answer")),
    Format("sharegpt", _keys("conversations"), _keys("system", *_TOOLS), sharegpt_row),
    Format("text", _keys("text"), frozenset(), plain_text),
    Format(
        "openai-preference", _keys("input", "preferred_output", "non_preferred_output"), frozenset(),
        preferences.openai_preference, trains=False,
    ),
    Format(
        "openai-preference", _keys("input", "preferred_completion", "non_preferred_completion"), frozenset(),
        preferences.openai_preference, trains=False,
    ),
    Format("preference", _keys("chosen", "rejected"), _PREFERENCE, preferences.preference, trains=False),
    *(
        Format("unpaired", _keys(*names), _keys("input", "system", *_TOOLS), preferences.unpaired, trains=False)
        for names in (
            ("prompt", "completion", "label"), ("prompt", "completion", "kto_tag"),
            ("instruction", "output", "kto_tag"), ("messages", "kto_tag"), ("conversations", "kto_tag"),
        )
    ),
)  # fmt: skip
"""Every format, by the keys that name it. ``text`` beside Alpaca's keys is the rendered row, as in the first Alpaca."""

KNOWN_KEYS = frozenset[str]().union(*(known.required | known.optional for known in FORMATS))
