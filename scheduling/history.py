"""Corrects an estimate by the record's own history: earlier runs of the same base family, GPU type and length.

A run says by which factor its measured value differs from the formula's. The correction is the median of the factors:
a run that was disturbed (another program on the machine, a cold disk) does not move it. Its spread is the range in
which four of five runs lie. Fewer than ``LEAST_RUNS`` correct nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

LEAST_RUNS = 3
NARROW_RUNS = 10
"""Runs from which on the spread is that of the runs alone; with fewer it is at least half as wide as ``UNKNOWN``'s."""
SHARE = 0.1
"""The part of the runs that lies below the range, and the part above it."""


@dataclass(frozen=True, kw_only=True)
class Correction:
    """The factor by which an estimate is multiplied, and the range of the outcomes.

    Attributes:
        factor: The median of measured by estimated.
        low: The lower end of the range, a factor on the estimate of the formula.
        high: The upper end.
        runs: The number of runs that speak; 0 where the formula stands alone.
    """

    factor: float
    low: float
    high: float
    runs: int


UNKNOWN = Correction(factor=1.0, low=0.5, high=2.0, runs=0)
"""The correction without a history: half to twice the formula."""


def correction(factors: Iterable[float]) -> Correction:
    """Make the correction of some runs.

    Args:
        factors: Measured by estimated, of each run; above 0.

    Example:
        Ten runs that took 1.1 to 2.0 times the estimate are a factor of 1.55, from 1.1 to 1.9.
    """
    found = sorted(factors)
    if len(found) < LEAST_RUNS:
        return UNKNOWN
    middle, edge = median(found), int(SHARE * len(found))
    low, high = found[edge], found[-1 - edge]
    if len(found) < NARROW_RUNS:
        low, high = min(low, middle * (1 + UNKNOWN.low) / 2), max(high, middle * (1 + UNKNOWN.high) / 2)
    return Correction(factor=middle, low=low, high=high, runs=len(found))


def excess(factors: Iterable[float]) -> float:
    """Return the factor that nine of ten runs did not exceed, at least 1; 1 with fewer than ``LEAST_RUNS``."""
    found = sorted(factors)
    return max(1.0, found[-1 - int(SHARE * len(found))]) if len(found) >= LEAST_RUNS else 1.0
