"""When a schedule is due: cron lines in a time zone, and fixed intervals. Pure, but for the zones' own files.

The cron line is matched on the wall clock by cronsim; which moments a wall-clock time stands for where the clock
changes is decided here, by Debian cron's rule (man 8 cron), so that zones that shift by half an hour are right too:

* a line with a fixed hour and minute (neither begins with ``*``) runs once a matching time: at the first pass of an
  hour that comes twice, and at the end of the gap where its time is left out;
* a line whose hour or minute begins with ``*`` follows elapsed time: in both passes, and not in the gap.

An interval is elapsed time from its anchor; no change of the clock concerns it.
"""

import difflib
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from ..settings.errors import SettingsError

FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
LONGEST_S = 3660 * 86400
SHIFT = timedelta(hours=3)
"""More than a zone sets its clock back at once."""

_INTERVAL = re.compile("".join(f"(?:([0-9]{{1,9}}){unit})?" for unit in "wdhms"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """When something is due; either a cron line in a zone, or an interval from an anchor.

    Attributes:
        cron: Five fields: minute, hour, day of the month, month, day of the week.
        timezone: The IANA name of the zone whose wall clock the line speaks of.
        every_s: Seconds between two slots.
        anchor: The moment from which the interval counts.
    """

    cron: str | None = None
    timezone: str = "UTC"
    every_s: int | None = None
    anchor: datetime | None = None


def slots(rhythm: Rhythm, after: datetime) -> Iterator[datetime]:
    """Every slot later than ``after``, in order, in UTC; without end but for a line that stops firing.

    Which slots there are does not depend on ``after``: a later call goes on where an earlier one stopped.

    Raises:
        SettingsError: The rhythm is none: a wrong line, or an unknown zone.
    """
    if rhythm.cron is None:
        yield from _intervals(rhythm, after)
        return
    last = after
    for moment in _moments(check_cron(rhythm.cron), zone(rhythm.timezone), after - SHIFT):
        if moment > last:  # two times of one gap are one moment
            last = moment
            yield moment


def next_slots(rhythm: Rhythm, after: datetime, n: int) -> list[datetime]:
    """The next ``n`` slots after a moment, in UTC."""
    return list(islice(slots(rhythm, after), n))


def between(rhythm: Rhythm, after: datetime, until: datetime) -> Iterator[datetime]:
    """The slots later than ``after`` and not later than ``until``, in order."""
    return takewhile(lambda slot: slot <= until, slots(rhythm, after))


def newest(rhythm: Rhythm, after: datetime, until: datetime) -> datetime | None:
    """The last slot later than ``after`` and not later than ``until``, without walking through all of them."""
    span = timedelta(hours=1)
    while True:
        start = max(after, until - span)
        found = deque(between(rhythm, start, until), maxlen=1)
        if found or start == after:
            return found[0] if found else None
        span *= 24


def check_cron(line: str) -> str:
    """The line itself, with single spaces.

    Raises:
        SettingsError: It is no cron line, or one that never fires.
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
    """A cron line in words: "At 03:00 on every Monday"."""
    return CronSim(check_cron(line), datetime(2000, 1, 1)).explain()  # noqa: DTZ001  (a wall clock has no zone)


@lru_cache(maxsize=64)
def zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name.

    Raises:
        SettingsError: There is none; the message names one that is called alike.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = {one.lower(): one for one in available_timezones()}
        cities = {one.rpartition("/")[2]: one for one in known}
        near = difflib.get_close_matches(name.lower(), known, n=1) or [
            cities[city] for city in difflib.get_close_matches(name.lower(), cities, n=1, cutoff=0.8)
        ]
        raise SettingsError(
            f"there is no time zone {name!r}" + (f"; did you mean {known[near[0]]}?" if near else "."),
            hint="Use an IANA name like Europe/Berlin.",
        ) from None


def parse_every(words: str) -> int:
    """The seconds of an interval as people write it: ``90s``, ``30m``, ``6h``, ``1d12h``, ``2w``.

    Raises:
        SettingsError: It is no interval, shorter than a second, or longer than ten years.
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
    """An interval in the form that ``parse_every`` reads."""
    words = ""
    for unit in ("w", "d", "h", "m", "s"):
        count, seconds = divmod(seconds, UNITS_S[unit])
        words += f"{count}{unit}" if count else ""
    return words


def _intervals(rhythm: Rhythm, after: datetime) -> Iterator[datetime]:
    if rhythm.every_s is None or rhythm.anchor is None:
        raise SettingsError("a schedule needs a cron line or an interval.", hint="Give --cron or --every.")
    step, anchor = timedelta(seconds=rhythm.every_s), rhythm.anchor.astimezone(UTC)
    number = max(0, (after - anchor) // step) + 1
    while True:
        yield anchor + number * step
        number += 1


def _moments(line: str, there: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """The moments in UTC of a line's wall-clock times; see the module's docstring for where the clock changes."""
    minute, hour, *_ = line.split()
    elapsed = minute.startswith("*") or hour.startswith("*")
    again: deque[datetime] = deque()
    for wall in CronSim(line, after.astimezone(there).replace(tzinfo=None)):
        first, second = (_utc(wall, there, fold) for fold in (0, 1))
        if _left_out(wall, there):
            if elapsed:
                continue
            first = second = _end_of_gap(wall, there)
        while again and again[0] < first:
            yield again.popleft()
        yield first
        if elapsed and second > first:
            again.append(second)
    yield from again


def _utc(wall: datetime, there: ZoneInfo, fold: int = 0) -> datetime:
    return wall.replace(tzinfo=there, fold=fold).astimezone(UTC)


def _left_out(wall: datetime, there: ZoneInfo) -> bool:
    return _utc(wall, there).astimezone(there).replace(tzinfo=None) != wall


def _end_of_gap(wall: datetime, there: ZoneInfo) -> datetime:
    while _left_out(wall, there):
        wall += timedelta(minutes=1)
    return _utc(wall, there)


def _first(line: str) -> datetime | None:
    """The first time of a line in this century; None where there is none in fifty years."""
    return next(CronSim(line, datetime(2000, 1, 1)), None)  # noqa: DTZ001  (a wall clock has no zone)


def _comes_in_other_months(fields: list[str]) -> bool:
    """Whether nothing but the month is the matter with a line that cronsim refuses: the 31st of February."""
    try:
        CronSim(" ".join((*fields[:3], "*", fields[4])), datetime(2000, 1, 1))  # noqa: DTZ001  (as above)
        CronSim(f"0 0 * {fields[3]} *", datetime(2000, 1, 1))  # noqa: DTZ001  (as above)
    except CronSimError:
        return False
    return True
