"""Computes the times of a schedule: cron lines in a time zone, and fixed intervals. Pure, but for the zones' own files.

cronsim reads the line and walks the zone's clock by Debian cron's rule (man 8 cron):

* a line with a fixed hour and minute (neither begins with ``*``) runs once for each matching time: at the first pass of
  an hour that comes twice, and at the end of the gap where its time is left out;
* a line whose hour or minute begins with ``*`` follows elapsed time: it runs in both passes, and not in the gap.

Unusual: cronsim walks such a line in whole hours, so in a zone that shifts by half an hour (Australia/Lord_Howe, the
only one) the line may lose the times of one hour on the two days of a change; docs/schedules.md says which.

An interval is elapsed time from its anchor; a change of the clock has no effect on it.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from ..errors import SettingsError, nearest

FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
LONGEST_S = 3660 * 86400

_INTERVAL = re.compile("".join(f"(?:([0-9]{{1,9}}){unit})?" for unit in "wdhms"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """The times of a schedule: either a cron line in a zone, or an interval from an anchor.

    Attributes:
        cron: Five fields: minute, hour, day of the month, month, day of the week.
        timezone: The IANA name of the zone whose wall clock the line uses.
        every_s: Seconds between two times.
        anchor: The moment from which the interval counts.
    """

    cron: str | None = None
    timezone: str = "UTC"
    every_s: int | None = None
    anchor: datetime | None = None


def due_times(rhythm: Rhythm, after: datetime) -> Iterator[datetime]:
    """Yields every due time later than ``after``, in order, in UTC; the times end only for a line that stops firing.

    The times do not depend on ``after`` (but for a half-hour zone, see above): a later call continues where an
    earlier call stopped.

    Raises:
        SettingsError: The line is wrong, or the zone is unknown.
    """
    if rhythm.cron is None:
        yield from _intervals(rhythm, after)
        return
    last = after
    for there in CronSim(check_cron(rhythm.cron), after.astimezone(zone(rhythm.timezone))):
        moment = there.astimezone(UTC)
        if moment > last:  # times of one gap are one moment, and in a second pass cronsim begins with the first
            last = moment
            yield moment


def next_times(rhythm: Rhythm, after: datetime, n: int) -> list[datetime]:
    """Returns the next ``n`` times after a moment, in UTC."""
    return list(islice(due_times(rhythm, after), n))


def between(rhythm: Rhythm, after: datetime, until: datetime) -> Iterator[datetime]:
    """Yields the times later than ``after`` and not later than ``until``, in order."""
    return takewhile(lambda at: at <= until, due_times(rhythm, after))


def newest(rhythm: Rhythm, after: datetime, until: datetime) -> datetime | None:
    """Returns the last time later than ``after`` and not later than ``until``, without a walk through all of them."""
    span = timedelta(hours=1)
    while True:
        start = max(after, until - span)
        found = deque(between(rhythm, start, until), maxlen=1)
        if found or start == after:
            return found[0] if found else None
        span *= 24


def check_cron(line: str) -> str:
    """Returns the line with single spaces if it is a cron line that fires.

    Raises:
        SettingsError: The line is no cron line, or never fires.
    """
    fields = line.split()
    if len(fields) != len(FIELDS):
        raise SettingsError(
            f"the cron line {line!r} has {len(fields)} fields; it needs {len(FIELDS)}: {', '.join(FIELDS)}.",
            hint="Write --cron '0 3 * * 1' for Mondays at three, or --every 30s for less than a minute.",
        )
    joined = " ".join(fields)
    try:
        fires = _first(joined)
    except CronSimError as error:
        fires = None
        if not _comes_in_other_months(fields):
            raise SettingsError(
                f"the cron line {line!r} is wrong: {str(error)[0].lower()}{str(error)[1:]}.",
                hint="See docs/schedules.md for what a field may be.",
            ) from None
    if fires is None:
        raise SettingsError(
            f"the cron line {line!r} never fires: no such day comes.", hint="Look at its day and its month."
        )
    return joined


def explain(line: str) -> str:
    """Describes a cron line in words: "At 03:00 on every Monday"."""
    return CronSim(check_cron(line), datetime(2000, 1, 1)).explain()  # noqa: DTZ001  (a wall clock has no zone)


@lru_cache(maxsize=64)
def zone(name: str) -> ZoneInfo:
    """Returns the time zone of an IANA name.

    Raises:
        SettingsError: There is no such zone; the message offers a similar name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = available_timezones()
        cities = {one.rpartition("/")[2]: one for one in known}
        near = nearest(name, known) or [cities[city] for city in nearest(name, cities, cutoff=0.8)]
        raise SettingsError(
            f"there is no time zone {name!r}" + (f"; did you mean {near[0]}?" if near else "."),
            hint="Use an IANA name like Europe/Berlin.",
        ) from None


def parse_every(words: str) -> int:
    """Parses an interval as people write it into seconds: ``90s``, ``30m``, ``6h``, ``1d12h``, ``2w``.

    Raises:
        SettingsError: The text is no interval, or the interval is shorter than a second or longer than ten years.
    """
    found = _INTERVAL.fullmatch(words.strip().lower())
    counts = found.groups() if found else ()
    seconds = sum(int(count or 0) * UNITS_S[unit] for count, unit in zip(counts, "wdhms", strict=False))
    if not 0 < seconds <= LONGEST_S:
        raise SettingsError(
            f"every {words!r} is no interval between a second and ten years.",
            hint="Write a number and a unit, the largest first: 90s, 30m, 6h, 1d12h, 2w.",
        )
    return seconds


def shown_every(seconds: int) -> str:
    """Formats an interval as ``parse_every`` reads it."""
    words = ""
    for unit in ("w", "d", "h", "m", "s"):
        count, seconds = divmod(seconds, UNITS_S[unit])
        words += f"{count}{unit}" if count else ""
    return words


def _intervals(rhythm: Rhythm, after: datetime) -> Iterator[datetime]:
    if rhythm.every_s is None or rhythm.anchor is None:
        raise SettingsError("a schedule needs a cron line or an interval.", hint="Give --cron or --every.")
    step, anchor = timedelta(seconds=rhythm.every_s), rhythm.anchor.astimezone(UTC)
    number = (after - anchor) // step + 1  # negative where the clock was set back behind the anchor
    while True:
        yield anchor + number * step
        number += 1


def _first(line: str) -> datetime | None:
    """Returns the first time of a line in this century; None where there is none in fifty years."""
    return next(CronSim(line, datetime(2000, 1, 1)), None)  # noqa: DTZ001  (a wall clock has no zone)


def _comes_in_other_months(fields: list[str]) -> bool:
    """Checks if cronsim refuses a line for its month alone, as it does the 31st of February."""
    try:
        CronSim(" ".join((*fields[:3], "*", fields[4])), datetime(2000, 1, 1))  # noqa: DTZ001  (as above)
        CronSim(f"0 0 * {fields[3]} *", datetime(2000, 1, 1))  # noqa: DTZ001  (as above)
    except CronSimError:
        return False
    return True
