"""Measures the use of devices in whole milliseconds and millionths of the currency, and splits it at a month's end."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from ...errors import SettingsError

MINUTE_MS = 60_000
MICROS = 1_000_000
MOST = 10**15
"""The largest number of either unit: 31,000 years. An estimate beyond it, of a job that asks for as many steps, counts
as so much: a column holds the sum of thousands of them."""


@dataclass(frozen=True, slots=True)
class Use:
    """Device time and its price.

    Attributes:
        device_ms: Milliseconds of a device.
        cost_micros: Millionths of the currency of the prices.
    """

    device_ms: int = 0
    cost_micros: int = 0

    @classmethod
    def of(cls, seconds: float, cost: float) -> Self:
        """Round seconds and money to whole units, each at most ``MOST``.

        Example:
            ``Use.of(1.5, 0.25)`` is ``Use(device_ms=1500, cost_micros=250000)``.
        """
        return cls(_whole(seconds * 1000), _whole(cost * MICROS))

    def __add__(self, other: "Use") -> "Use":
        return Use(self.device_ms + other.device_ms, self.cost_micros + other.cost_micros)

    def __sub__(self, other: "Use") -> "Use":
        return Use(self.device_ms - other.device_ms, self.cost_micros - other.cost_micros)

    def __bool__(self) -> bool:
        return bool(self.device_ms or self.cost_micros)

    def least(self, other: "Use") -> "Use":
        """Return the smaller time and the smaller cost."""
        return Use(min(self.device_ms, other.device_ms), min(self.cost_micros, other.cost_micros))

    def most(self, other: "Use") -> "Use":
        """Return the larger time and the larger cost."""
        return Use(max(self.device_ms, other.device_ms), max(self.cost_micros, other.cost_micros))

    @property
    def minutes(self) -> float:
        """The device time in minutes."""
        return self.device_ms / MINUTE_MS

    @property
    def cost(self) -> float:
        """The price in the currency of the prices."""
        return self.cost_micros / MICROS


def _whole(value: float) -> int:
    return round(value) if value < MOST else MOST  # a value that is no number counts as the most, too


def month_of(at: datetime) -> str:
    """Return the UTC month of a time, as in ``2026-11``."""
    return at.astimezone(UTC).strftime("%Y-%m")


def check_month(words: str) -> str:
    """Return a month that is one.

    Raises:
        SettingsError: The words are no month.
    """
    try:
        parsed = datetime.strptime(words, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        parsed = None
    if parsed is None or month_of(parsed) != words:
        raise SettingsError(f"{words[:40]!r} is no month.", hint="Write year and month: 2026-11.")
    return words


def split_by_month(began: datetime, ended: datetime, use: Use) -> list[tuple[str, Use]]:
    """Split the use of a time span into its months, each in proportion to its part of the span; the last gets the rest.

    Example:
        Two hours around the midnight of the first of December are one hour's use in ``2026-11`` and one in ``2026-12``.
    """
    parts: list[tuple[str, Use]] = []
    left, start, whole_s = use, began, (ended - began).total_seconds()
    while month_of(start) < month_of(ended):
        edge = _next_month(start)
        share = (edge - start).total_seconds() / whole_s
        part = Use(round(use.device_ms * share), round(use.cost_micros * share))
        parts.append((month_of(start), part))
        left, start = left - part, edge
    return [*parts, (month_of(ended), left)]


def _next_month(at: datetime) -> datetime:
    utc = at.astimezone(UTC)
    december = utc.month == 12  # noqa: PLR2004  (the last month)
    return datetime(utc.year + december, 1 if december else utc.month + 1, 1, tzinfo=UTC)
