"""Logs of jobs and services: they cannot fill a disk, and keep no secret.

A log is written by another process, straight to the file, so that no reader of ours could ever block it. It was opened
for appending, which is why it may be cut under the writer: the next line goes to the new end. What is written between
the look and the cut is lost with the middle.
"""

import re
from pathlib import Path

from ..settings.redaction import redactor

TAIL_LINES = 40
TAIL_BYTES = 64 * 1024
LINE_LETTERS = 2000
HEAD_SHARE = 4
"""A cut log keeps a quarter of its size from the beginning and a quarter from the end."""

_ERROR = re.compile(r"^[\w.]*(Error|Exception|Interrupt|Exit)\b.*$")


def cap(log: Path, limit_bytes: int) -> bool:
    """Cut the middle out of a log that has grown above its limit; 0 sets none. Returns whether it was cut."""
    size = size_of(log)
    if not limit_bytes or size <= limit_bytes:
        return False
    share = limit_bytes // HEAD_SHARE
    with log.open("r+b") as file:
        file.seek(size - share)
        tail = file.read()
        file.truncate(share)
    with log.open("ab") as file:
        told = f"\n--- {size - share - len(tail)} bytes are left out here: the log grew above {limit_bytes} ---\n"
        file.write(told.encode() + tail)
    return True


def mask(log: Path) -> bool:
    """Mask what a library wrote of a secret into a log that nobody writes to any more. Returns whether it changed."""
    hide, aside, changed = redactor(), log.with_name(f".{log.name}.masked"), False
    try:
        with (
            log.open(encoding="utf-8", errors="replace", newline="") as lines,
            aside.open("w", encoding="utf-8", newline="") as masked,
        ):
            for line in lines:
                told = hide.text(line)
                changed = changed or told != line
                masked.write(told)
        if changed:
            aside.replace(log)
    except FileNotFoundError:
        return False
    finally:
        aside.unlink(missing_ok=True)
    return changed


def size_of(log: Path) -> int:
    """Its size; 0 where there is none."""
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


def log_tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, of progress bars their last state alone; an empty text where there is none.

    The last line that names an exception comes first where more than that many lines followed it. Secrets are masked.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, size_of(log) - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    whole = [line.rstrip("\r").rpartition("\r")[2][:LINE_LETTERS] for line in text.rstrip("\n").split("\n")]
    named = [number for number, line in enumerate(whole) if _ERROR.match(line)]
    told = whole[-lines:]
    if named and named[-1] < len(whole) - lines:
        told = [whole[named[-1]], "…", *told]
    return redactor().text("\n".join(told))
