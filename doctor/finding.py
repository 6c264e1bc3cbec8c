"""Defines a finding of `celora doctor`: a level (ok, warning, failure), the fact, and the fix in one sentence."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TypeVar

from ..errors import CeloraError


class Level(StrEnum):
    """The severity of a finding; only ``fail`` makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes:
        level: Severity.
        check: Stable name of the check, for programs: ``broker.eviction``.
        found: The fact in words, without any secret.
        fix: The next step in one sentence; empty where none is needed.
    """

    level: Level
    check: str
    found: str
    fix: str = ""


def ok(check: str, found: str) -> Finding:
    """Make a finding without a fault."""
    return Finding(level=Level.OK, check=check, found=found)


def warn(check: str, found: str, fix: str) -> Finding:
    """Make a finding about a part that works now and will fail under some condition."""
    return Finding(level=Level.WARN, check=check, found=found, fix=fix)


def fail(check: str, found: str, fix: str) -> Finding:
    """Make a finding about a part that does not work, or that loses data."""
    return Finding(level=Level.FAIL, check=check, found=found, fix=fix)


def refused(check: str, error: CeloraError) -> Finding:
    """Turn one of our own errors into a failure; the error's hint is the fix."""
    return fail(check, error.message, error.hint or "See the log of the part that is named.")


def broken(check: str, error: Exception) -> Finding:
    """Turn an error of the check itself into a failure."""
    if isinstance(error, CeloraError):
        return refused(check, error)
    words = str(error).strip().splitlines()
    return fail(
        check,
        f"this could not be looked at: {type(error).__name__}: {words[0] if words else 'no message'}",
        "Mend what the error names, then run `celora doctor` again.",
    )


def guarded(check: str, look: Callable[[], Finding]) -> Finding:
    """Run one check; an error becomes a failure under the check's name, and the caller goes on."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001  (every error becomes a finding)
        return broken(check, error)


Facts = TypeVar("Facts")


def judged(facts: Facts, *judges: Callable[[Facts], Finding]) -> Iterator[Finding]:
    """Yield the finding of each judge about the same facts.

    A judge that raises becomes a failure under its own name, and the other judges go on.
    """
    for judge in judges:
        yield guarded(judge.__name__, partial(judge, facts))
