"""What `celora doctor` says of one thing: ok, a warning or a failure; what was found; the fix in one sentence."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from ..settings.errors import CeloraError


class Level(StrEnum):
    """How bad a finding is; only ``fail`` makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: How bad it is.
        check: The check's stable name, for programs: ``broker.eviction``.
        found: What was looked at and found, without any secret.
        fix: What to do, one sentence; empty where nothing is.
    """

    level: Level
    check: str
    found: str
    fix: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(level=Level.OK, check=check, found=found)


def warn(check: str, found: str, fix: str) -> Finding:
    """It works, and will not always."""
    return Finding(level=Level.WARN, check=check, found=found, fix=fix)


def fail(check: str, found: str, fix: str) -> Finding:
    """It does not work, or loses something."""
    return Finding(level=Level.FAIL, check=check, found=found, fix=fix)


def refused(check: str, error: CeloraError) -> Finding:
    """One of our own errors as a failure; its hint is the fix."""
    return fail(check, error.message, error.hint or "See the log of the part that is named.")


def broken(check: str, error: Exception) -> Finding:
    """The check itself went wrong."""
    if isinstance(error, CeloraError):
        return refused(check, error)
    words = str(error).strip().splitlines()
    return fail(
        check,
        f"this could not be looked at: {type(error).__name__}: {words[0] if words else 'no message'}",
        "Mend what the error names, then run `celora doctor` again.",
    )


Facts = TypeVar("Facts")


def judged(facts: Facts, *judges: Callable[[Facts], Finding]) -> Iterator[Finding]:
    """What each judge says of the same facts; one that breaks is a failure of its own, and the others go on."""
    for judge in judges:
        try:
            yield judge(facts)
        except Exception as error:  # noqa: BLE001  (whatever it was becomes a finding)
            yield broken(judge.__name__, error)
