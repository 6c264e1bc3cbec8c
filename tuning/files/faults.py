"""Describes a fault in a dataset: the row, the place in the row, the reason and the remedy.

A place inside a row is a JSON path (``messages[2].content``), because people and programs read it more easily than a
column number. A fault of the text itself (invalid JSON, a NUL character) names its column in the reason. Lines, columns
and bytes count from 1.
"""

from collections import Counter
from dataclasses import dataclass, field

SHOWN_BAD_LINES = 100

Where = tuple[str | int, ...]
"""Keys and list indices that lead to a value inside a row, for example ``("messages", 2, "content")``."""


def json_path(at: Where) -> str:
    """Writes the path to a value as people write it: ``messages[2].content``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in at)
    return "".join(steps).removeprefix(".")


@dataclass(frozen=True, slots=True)
class BadLine:
    """Names one row that cannot be used.

    Attributes:
        line: Line of the file, from 1; of a Parquet file, the row.
        path: JSON path to the faulty value; None where the fault concerns the whole row or its text.
        byte: Byte in the line, from 1; only where the line is no text.
        kind: A stable word to count and to match on.
        reason: The fault in words.
        fix: The remedy in words.
        also: Number of further rows with the same fault that are not listed one by one.
    """

    line: int
    path: str | None
    byte: int | None
    kind: str
    reason: str
    fix: str
    also: int = 0

    @property
    def place(self) -> str:
        """Returns the place inside the row in words; empty for the whole row."""
        return f"byte {self.byte}" if self.byte is not None else self.path or ""

    def __str__(self) -> str:
        return f"{', '.join(filter(None, (f'line {self.line}', self.place)))}: {self.reason}"


@dataclass(slots=True)
class BadLines:
    """Counts every bad line and keeps the first hundred of each kind."""

    shown: list[BadLine] = field(default_factory=list[BadLine])
    counts: Counter[str] = field(default_factory=Counter[str])

    def add(self, bad: BadLine) -> None:
        """Counts a bad line, and keeps it while fewer than a hundred of its kind are kept."""
        if self.counts[bad.kind] < SHOWN_BAD_LINES:
            self.shown.append(bad)
        self.counts[bad.kind] += 1 + bad.also

    def extend(self, other: "BadLines") -> None:
        """Adds the bad lines of the rows that follow."""
        for bad in other.shown:
            self.add(bad)
            other.counts[bad.kind] -= 1 + bad.also
        self.counts.update(other.counts)

    @property
    def total(self) -> int:
        """Returns the number of bad lines."""
        return self.counts.total()


class Fault(Exception):  # noqa: N818  (never leaves the readers of rows: it becomes a BadLine)
    """Describes the fault of the current row.

    Args:
        kind: A stable word to count and to match on.
        reason: The fault in words.
        fix: The remedy in words.
        at: The path to the faulty value; empty for the whole row.
        offset: 0-based offset into the row's text, for a fault of the text.
        byte: Byte of the line, from 1, where the line is no text at all.
    """

    def __init__(
        self, kind: str, reason: str, fix: str, *, at: Where = (), offset: int | None = None, byte: int | None = None
    ) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.fix = kind, reason, fix
        self.at, self.offset, self.byte = at, offset, byte

    def bad_line(self, line: int, column: int | None = None) -> BadLine:
        """Returns the same fault with its line.

        Args:
            line: Line of the file.
            column: Column of the fault in that line; computed from ``offset`` unless given.
        """
        if column is None and self.offset is not None:
            column = self.offset + 1
        reason = self.reason if column is None or self.byte is not None else f"{self.reason} (column {column})"
        return BadLine(line, json_path(self.at) or None, self.byte, self.kind, reason, self.fix)
