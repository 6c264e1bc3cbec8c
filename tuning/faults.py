"""What is wrong with a line of a dataset: where, why, and what to do. Lines and columns count from 1."""

from collections import Counter
from dataclasses import dataclass, field

SHOWN_BAD_LINES = 100

Where = tuple[str | int, ...]
"""The way to a value inside a row: keys and list indices, for example ``("messages", 2, "content")``."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """One line that cannot be used: where, why, and what to do.

    Attributes:
        line: Counted from 1; of a Parquet file, the row.
        column: In characters, from 1; of a Parquet file, the column's number. None where the line is no text at all.
        byte: In the line, from 1; only where there is no column.
        kind: A stable word to count and to match on.
        also: So many further lines have the same fault and are not told one by one.
    """

    line: int
    column: int | None
    byte: int | None
    kind: str
    reason: str
    fix: str
    also: int = 0

    def __str__(self) -> str:
        place = f"column {self.column}" if self.byte is None else f"byte {self.byte}"
        return f"line {self.line}, {place}: {self.reason}"


@dataclass(slots=True)
class BadLines:
    """Every bad line counted, the first hundred of each kind kept."""

    shown: list[BadLine] = field(default_factory=list[BadLine])
    counts: Counter[str] = field(default_factory=Counter[str])

    def add(self, bad: BadLine) -> None:
        """Count a bad line, and keep it while there is room."""
        if self.counts[bad.kind] < SHOWN_BAD_LINES:
            self.shown.append(bad)
        self.counts[bad.kind] += 1 + bad.also

    def extend(self, other: "BadLines") -> None:
        """Take over the bad lines that follow."""
        for bad in other.shown:
            self.add(bad)
            other.counts[bad.kind] -= 1 + bad.also
        self.counts.update(other.counts)

    @property
    def total(self) -> int:
        """How many there are."""
        return self.counts.total()


class Fault(Exception):  # noqa: N818  (never leaves the readers of rows: it becomes a BadLine)
    """What is wrong with the row at hand.

    Args:
        kind: A stable word to count and to match on.
        reason: What is wrong.
        fix: What to do.
        at: The way to the value, or a 0-based offset into the row's text.
        byte: From 1, where the row is no text at all.
    """

    def __init__(self, kind: str, reason: str, fix: str, *, at: Where | int = 0, byte: int | None = None) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.fix, self.at, self.byte = kind, reason, fix, at, byte

    def bad_line(self, line: int, column: int | None) -> BadLine:
        """This fault, at a place."""
        if self.byte is not None:
            return BadLine(line, None, self.byte, self.kind, self.reason, self.fix)
        return BadLine(line, column, None, self.kind, self.reason, self.fix)
