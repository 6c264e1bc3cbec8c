"""What reading a dataset file brought to light, and the errors that say it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..settings.errors import DataError
from .faults import BadLines
from .rows import Preference, Row, Unpaired

SHOWN_IN_MESSAGE = 5
GIVE_UP_LINES = 100_000
"""So many bad lines say enough; nobody waits for the rest."""


@dataclass(slots=True)
class DataFile:
    """A dataset file, read and checked row by row.

    Attributes:
        format: Name of the rows' format; empty where no row was good.
        trains: Whether rows of this format are examples to train on.
        rows: The good rows in their order, where somebody collected them.
        pairs: What the good preference rows compare, as rows: of each the better answer and then the worse one.
        preferences: The good preference rows, alike.
        good: How many rows are good.
        by_format: Rows by format, as their keys say, good or bad.
        labels: Unpaired rows by label.
        ignored_keys: Keys that no format knows, with how many rows have them.
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
    blank_lines: int = 0
    notes: list[str] = field(default_factory=list[str])
    by_format: Counter[str] = field(default_factory=Counter[str])
    labels: Counter[bool] = field(default_factory=Counter[bool])
    ignored_keys: Counter[str] = field(default_factory=Counter[str])

    @property
    def warnings(self) -> list[str]:
        """What a person should know about the rows before training on them."""
        found: list[str] = []
        if self.format == "text":
            found.append(
                f"the rows of {self.path.name} are plain text, so loss is on every word (continued pre-training); "
                "a model that is to answer learns from prompt/completion or chat rows"
            )
        if len(self.labels) == 1 and self.good > 1:
            only = str(next(iter(self.labels))).lower()
            found.append(f"every row of {self.path.name} has the label {only}; unpaired training needs both")
        return found


class BadRowsError(DataError):
    """Lines that cannot be used; ``bad`` keeps the first hundred of each kind and counts all."""

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


class PreferenceRowsError(DataError):
    """The rows are checked and good, and for another kind of training than the one that was asked for."""

    def __init__(self, data: DataFile) -> None:
        super().__init__(
            f"{data.path.name} holds {data.good} {data.format} rows, which are for the preference training (DPO, KTO) "
            "that is to come; this job trains on answers.",
            hint="Write rows with the better answer alone, for example prompt and completion.",
        )


def require_good(data: DataFile) -> None:
    """Raise what is wrong with a file that was read.

    Raises:
        BadRowsError: It has bad lines.
        PreferenceRowsError: Its rows are for another kind of training.
        DataError: It has no rows at all.
    """
    if data.bad.total:
        raise BadRowsError(data.path.name, data.bad, data.lines)
    if not data.good:
        raise DataError(f"{data.path.name} holds no rows.", hint="Write one JSON object a line, and check the path.")
    if not data.trains:
        raise PreferenceRowsError(data)
