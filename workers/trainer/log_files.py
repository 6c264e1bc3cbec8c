"""Caps, masks and reads the logs of jobs and services, so that no log fills a disk or keeps a secret.

Another process writes a log straight to the file, so that no reader in the worker can block it. The file is opened for
appending, so it may be cut under the writer: the next line goes to the new end. Lines that are written between the
check of the size and the cut are lost with the middle.
"""

import re
from pathlib import Path

from ...settings.redaction import redactor
from ...storage.disk_space import is_no_space

TAIL_LINES = 40
TAIL_BYTES = 64 * 1024
LINE_LETTERS = 2000
HEAD_SHARE = 4
"""Divisor of a log's limit: a cut log keeps a quarter of it from the beginning and a quarter from the end."""

EMPTIED = "--- the disk was full, and this log held a secret that could not be masked: its lines are left out ---\n"

_ERROR = re.compile(r"^[\w.]*(Error|Exception|Interrupt|Exit)\b.*$")


def cap(log: Path, limit_bytes: int) -> bool:
    """Cut the middle out of a log that has grown above its limit; 0 sets no limit. Return whether the log was cut."""
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
    """Mask the secrets in a log that no process writes to any more. Return whether the log changed.

    A log that holds a secret is emptied where the disk is too full for its masked copy.
    """
    aside = log.with_name(f".{log.name}.masked")
    try:
        if not _holds_secret(log):
            return False
        _mask_aside(log, aside)
        aside.replace(log)
    except FileNotFoundError:
        return False
    except OSError as error:
        if not is_no_space(error):
            raise
        log.write_text(EMPTIED, encoding="utf-8")
    finally:
        aside.unlink(missing_ok=True)
    return True


def _holds_secret(log: Path) -> bool:
    hide = redactor()
    with log.open(encoding="utf-8", errors="replace", newline="") as lines:
        return any(hide.text(line) != line for line in lines)


def _mask_aside(log: Path, aside: Path) -> None:
    hide = redactor()
    with (
        log.open(encoding="utf-8", errors="replace", newline="") as lines,
        aside.open("w", encoding="utf-8", newline="") as masked,
    ):
        masked.writelines(map(hide.text, lines))


def size_of(log: Path) -> int:
    """Return the size of a log; 0 where there is none."""
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


def log_tail(log: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a log, of a progress bar only its last state; an empty text where there is no log.

    The last line that names an exception is put first if it is not among the last lines. Secrets are masked.
    """
    return tail_since(log, 0, lines)


def tail_since(log: Path, offset: int, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a log as ``log_tail`` does, without the bytes before an offset.

    A log that is shorter than the offset was cut: nothing tells which of its lines came later, so none is returned.
    """
    size = size_of(log)
    if size <= offset:
        return ""
    with log.open("rb") as file:
        file.seek(max(offset, size - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    whole = [line.rstrip("\r").rpartition("\r")[2][:LINE_LETTERS] for line in text.rstrip("\n").split("\n")]
    named = [number for number, line in enumerate(whole) if _ERROR.match(line)]
    told = whole[-lines:]
    if named and named[-1] < len(whole) - lines:
        told = [whole[named[-1]], "…", *told]
    return redactor().text("\n".join(told))
