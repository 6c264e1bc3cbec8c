"""Holds the result of reading a dataset file, and the errors that report it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import DataError
from ..files.faults import BadLines
from ..recipe import Method
from .formats import methods_of
from .row import Preference, Row, Unpaired

SHOWN_IN_MESSAGE = 5
GIVE_UP_LINES = 100_000
"""Reading stops after this many bad lines: nobody needs to wait for the rest."""


@dataclass(slots=True)
class DataFile:
    """Describes a dataset file that was read and checked row by row.

    Attributes:
        format: Name of the rows' format; empty where no row was good.
        trains: True if rows of this format are examples to train on.
        rows: The good rows in their order, if they were collected.
        pairs: The answers that the good preference rows compare, as rows: of each the better one, then the worse one.
        preferences: The good preference rows, if they were collected.
        good: Number of good rows.
        by_format: Rows by format, as their keys tell it, good or bad.
        labels: Unpaired rows by label.
        ignored_keys: Keys that are not read, with the number of rows that have them.
        unknown_keys: The ignored keys that may change the meaning of a row, where a warning of them is wanted.
    """

    path: Path
    sha256: str
    size_bytes: int
    format: str = ""
    trains: bool = True
    rows: Sequence[Row] = ()
    pairs: Sequence[Row] = ()
    preferences: list[Preference | Unpaired] = field(default_factory=list[Preference | Unpaired])
    good: int = 0
    bad: BadLines = field(default_factory=BadLines)
    lines: int = 0
    notes: list[str] = field(default_factory=list[str])
    by_format: Counter[str] = field(default_factory=Counter[str])
    labels: Counter[bool] = field(default_factory=Counter[bool])
    ignored_keys: Counter[str] = field(default_factory=Counter[str])
    unknown_keys: Counter[str] = field(default_factory=Counter[str])

    @property
    def warnings(self) -> list[str]:
        """Returns sentences that a person should read before training on the rows."""
        found: list[str] = []
        if self.unknown_keys:
            listed = ", ".join(f"{key} ({n} rows)" for key, n in self.unknown_keys.most_common(10))
            found.append(
                f"{self.path.name} has keys that are not read and may change what a row means: {listed}; map them with "
                "columns, leave them out, or set unknown_keys to ignore"
            )
        if self.format == "text":
            found.append(
                f"the rows of {self.path.name} are plain text, so loss is on every word (continued pre-training); "
                "a model that is to answer learns from prompt/completion or chat rows"
            )
        if len(self.labels) == 1 and self.good > 1:
            only = str(next(iter(self.labels))).lower()
            found.append(f"every row of {self.path.name} has the label {only}; unpaired training needs both")
        return found

    @property
    def methods(self) -> tuple[Method, ...]:
        """Returns the methods that train on rows of this format, the usual one first."""
        return methods_of(self.format, trains=self.trains)


class BadRowsError(DataError):
    """The file has lines that cannot be used; ``bad`` keeps the first hundred of each kind and counts all."""

    def __init__(self, name: str, bad: BadLines, lines: int) -> None:
        self.bad = bad
        first = "; ".join(map(str, bad.shown[:SHOWN_IN_MESSAGE]))
        more = bad.total - min(len(bad.shown), SHOWN_IN_MESSAGE)
        super().__init__(
            f"{name} has {bad.total} bad {'line' if bad.total == 1 else 'lines'} of {lines}: {first}"
            + (f"; and {more} more" if more else "")
            + ("; reading stopped there." if bad.total >= GIVE_UP_LINES else "."),
            hint="; ".join(
                f"{fix[0].upper()}{fix[1:]}" for fix in dict.fromkeys(b.fix for b in bad.shown[:SHOWN_IN_MESSAGE])
            )
            + ".",
        )


class OtherMethodError(DataError):
    """The rows are good, but for another method of training than the requested one."""

    def __init__(self, data: DataFile, method: Method) -> None:
        others = f" (or {', '.join(data.methods[1:])})" if data.methods[1:] else ""
        line = "Take method out of" if data.trains else f"Write the line `method: {data.methods[0]}`{others} into"
        answers = {"dpo": "chosen and rejected", "orpo": "chosen and rejected", "kto": "prompt, completion and label"}
        kept = answers.get(method, "the better answer alone, for example prompt and completion")
        super().__init__(
            f"{data.path.name} holds {data.good} {data.format} rows, and method {method} does not train on those.",
            hint=f"{line} the job, or write rows of {kept}.",
        )


def require_good(data: DataFile, method: Method = "sft") -> None:
    """Raises the error of a file that was read, if it has one.

    Args:
        data: The findings of the file.
        method: The method of the job.

    Raises:
        BadRowsError: The file has bad lines.
        OtherMethodError: The file's rows are for another method of training.
        DataError: The file has no rows at all, or only rows of one label.
    """
    if data.bad.total:
        raise BadRowsError(data.path.name, data.bad, data.lines)
    if not data.good:
        raise DataError(f"{data.path.name} holds no rows.", hint="Write one JSON object a line, and check the path.")
    if method not in data.methods:
        raise OtherMethodError(data, method)


def require_both_labels(data: DataFile) -> None:
    """Refuses unpaired rows of one label alone.

    Raises:
        DataError: Every row has the same label.
    """
    if len(data.labels) == 1:
        only, missing = ("true", "false") if True in data.labels else ("false", "true")
        raise DataError(
            f"{data.path.name}: all {data.good} rows have the label {only}, from line 1 on; kto learns from the "
            "difference to the others.",
            hint=f"Add rows with the label {missing}"
            + (", or train on these answers: method: sft, without the label." if only == "true" else "."),
        )
