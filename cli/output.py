"""Prints for commands: JSON for programs, tables and sentences for people; progress always on standard error.

Any output may hold text of a dataset, a job's field or a library's error. No control character of such a text
reaches the terminal, where it could change the title, hide a line or answer for the person: ``printable`` escapes it.
"""

import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
"""The ``--json`` flag of every command that prints data."""

ABSENT = "-"
LOG_COLUMNS = 160
MINUTE_S, HOUR_S = 60, 3600


CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]|\r(?!\n|$)")
"""Control characters but tab and line ends, and what changes the direction of text (Unicode TR36, section 2)."""


def printable(text: str) -> str:
    """Escape the control characters of a text by their numbers; everything else stays as it is."""
    return CONTROL.sub(lambda found: _escaped(ord(found[0])), text)


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004  (Latin-1 ends there)


def say(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a sentence on standard output, or on standard error."""
    typer.echo(printable(str(text)), err=err, nl=nl)


class _Console(Console):
    """A console whose texts cannot control the terminal; its own styles can."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Print as ``Console.print`` does, texts made printable."""
        super().print(*(printable(one) if isinstance(one, str) else one for one in objects), **how)


def console() -> Console:
    """Standard output, for people; wide where it is no terminal, so that a log keeps its tables whole."""
    out = _Console(highlight=False, soft_wrap=True)
    if not out.is_terminal:
        out.width = LOG_COLUMNS
    return out


def progress_console() -> Console:
    """Standard error, for what changes while one waits."""
    return _Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON object or list on standard output."""
    typer.echo(as_json(value, indent=2))


def as_json(value: Any, *, indent: int | None = None) -> str:
    """JSON as text; a control character stands in it as JSON's own escape, so that the value is the same."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=_plain)
    return CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Table:
    """A table of cells, each shown as people read it."""
    shown = Table(
        *columns,
        title=title if title is None else printable(title),
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    for row in rows:
        shown.add_row(*map(cell, row))
    return shown


def cell(value: Any) -> str:
    """One value as a cell; absent ones as a dash."""
    if value is None or value == "":
        return ABSENT
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return printable(str(value)).replace("[", r"\[")


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 48 s, 3 min 05 s, 2 h 10 min."""
    if seconds is None:
        return ABSENT
    whole = round(seconds)
    if whole < MINUTE_S:
        return f"{whole} s"
    if whole < HOUR_S:
        return f"{whole // MINUTE_S} min {whole % MINUTE_S:02d} s"
    return f"{whole // HOUR_S} h {whole % HOUR_S // MINUTE_S:02d} min"


def size(size_bytes: float | None) -> str:
    """Bytes in binary units."""
    if size_bytes is None:
        return ABSENT
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:  # noqa: PLR2004  (the binary step)
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def money(amount: float | None) -> str:
    """US dollars, with enough digits that a small job costs something."""
    return ABSENT if amount is None else f"${amount:.4f}" if amount < 1 else f"${amount:.2f}"
