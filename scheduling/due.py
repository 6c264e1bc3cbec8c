"""Decides which due times of a schedule become runs, and what a run does while the run before it is unfinished.

The functions are pure. A time that is late by no more than ``late_s`` is on time; an older time was missed, since no
round ran. Missed runs never happen one by one: one run stands for all of them, or none happens.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice

from .cron import Rhythm, between, newest

COUNTED = 1000
"""Missed runs are counted up to this number."""


class Missed(StrEnum):
    """The rule for runs that no scheduling round handled in time."""

    RUN_ONCE = "run-once"
    SKIP = "skip"


class Overlap(StrEnum):
    """The rule for a run that is due while the schedule's last job is unfinished."""

    SKIP = "skip"
    QUEUE = "queue"
    REPLACE = "replace"


class Before(StrEnum):
    """The state of the schedule's last job: ended, not begun, or running."""

    OVER = "over"
    WAITING = "waiting"
    RUNNING = "running"


class Step(StrEnum):
    """The step to take with a run."""

    SUBMIT = "submit"
    WAIT = "wait"
    SKIP = "skip"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Missed runs: the time of the first and of the last, and their number (up to ``COUNTED``)."""

    first: datetime
    last: datetime
    count: int

    def __str__(self) -> str:
        many = f"more than {COUNTED:,}" if self.count > COUNTED else f"{self.count:,}"
        runs = "run was" if self.count == 1 else "runs were"
        return f"{many} {runs} missed from {self.first:%Y-%m-%d %H:%M:%S} to {self.last:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """The due times of a schedule at a moment.

    Attributes:
        times: The times to run, in order; where missed runs happen once, the first time stands for all of them.
        gap: The missed runs; None if none was missed.
        next_time: The first time that is not due yet; None if none will come.
    """

    times: tuple[datetime, ...]
    gap: Gap | None
    next_time: datetime | None


def find_due(rhythm: Rhythm, last: datetime, now: datetime, *, late_s: float, missed: Missed) -> Due:
    """Finds the times after ``last`` that are due.

    Args:
        rhythm: The times of the schedule.
        last: The last time that a round handled.
        now: The present time.
        late_s: Seconds by which a run may be late.
        missed: The rule for older times.
    """
    limit = max(last, now - timedelta(seconds=late_s))
    on_time = tuple(between(rhythm, limit, now))
    late = newest(rhythm, last, limit)
    gap = None
    if late is not None:
        counted = list(islice(between(rhythm, last, limit), COUNTED + 1))
        gap = Gap(first=counted[0], last=late, count=len(counted))
    if gap is not None and missed is Missed.RUN_ONCE and not on_time:
        on_time = (gap.last,)
    following = next(between(rhythm, now, datetime.max.replace(tzinfo=now.tzinfo)), None)
    return Due(times=on_time, gap=gap, next_time=following)


def choose_step(overlap: Overlap, before: Before, *, queue: bool) -> Step:
    """Chooses the step to take with a run.

    Args:
        overlap: The schedule's rule.
        before: The state of its last job.
        queue: True if earlier runs wait for their turn.
    """
    if before is Before.OVER and not queue:
        return Step.SUBMIT
    if overlap is Overlap.SKIP:
        return Step.SKIP
    if overlap is Overlap.REPLACE and before is Before.WAITING:
        return Step.REPLACE
    return Step.WAIT
