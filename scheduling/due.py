"""What becomes of a slot: which of those that passed are run, and what happens while the run before is not over.

Pure. A slot that is late by no more than ``late_s`` is on time; an older one was missed, since nobody looked. Missed
slots never run one by one: once for all of them, or not at all.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice

from .calendar import Rhythm, between, newest

COUNTED = 1000
"""Missed slots are counted up to here."""


class Missed(StrEnum):
    """What becomes of slots that nobody looked for in time."""

    RUN_ONCE = "run-once"
    SKIP = "skip"


class Overlap(StrEnum):
    """What becomes of a slot while the schedule's last job is not over."""

    SKIP = "skip"
    QUEUE = "queue"
    REPLACE = "replace"


class Before(StrEnum):
    """Where the schedule's last job stands: over, not begun yet, or at work."""

    OVER = "over"
    WAITING = "waiting"
    RUNNING = "running"


class Step(StrEnum):
    """What is done with a slot."""

    SUBMIT = "submit"
    WAIT = "wait"
    SKIP = "skip"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Slots that were missed: the first, the last, and how many (up to ``COUNTED``)."""

    first: datetime
    last: datetime
    count: int

    def __str__(self) -> str:
        many = f"more than {COUNTED:,}" if self.count > COUNTED else f"{self.count:,}"
        slots = "slot was" if self.count == 1 else "slots were"
        return f"{many} {slots} missed from {self.first:%Y-%m-%d %H:%M:%S} to {self.last:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What a look at the clock finds.

    Attributes:
        slots: The slots to run, in order; the first one stands for the missed ones where they run once.
        gap: What was missed.
        next_slot: The first slot that is not due yet; None if none will come.
    """

    slots: tuple[datetime, ...]
    gap: Gap | None
    next_slot: datetime | None


def look(rhythm: Rhythm, last: datetime, now: datetime, *, late_s: float, missed: Missed) -> Due:
    """The slots after ``last`` that are due.

    Args:
        rhythm: When the schedule is due.
        last: The last slot that was dealt with.
        now: The clock.
        late_s: Seconds by which a slot may be late.
        missed: What becomes of older ones.
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
    return Due(slots=on_time, gap=gap, next_slot=following)


def step(overlap: Overlap, before: Before, *, queue: bool) -> Step:
    """What to do with a slot.

    Args:
        overlap: What the schedule wants.
        before: Where its last job stands.
        queue: Whether earlier slots wait for their turn.
    """
    if before is Before.OVER and not queue:
        return Step.SUBMIT
    if overlap is Overlap.SKIP:
        return Step.SKIP
    if overlap is Overlap.REPLACE and before is Before.WAITING:
        return Step.REPLACE
    return Step.WAIT
