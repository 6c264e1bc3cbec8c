"""Computes confidence intervals of differences: the paired bootstrap and Wilson's interval, by the standard library.

The control worker evaluates gates and has no numpy. Unusual: a measure is a function of column *sums*. Exact match is
hits / rows, the loss of a set is nats / tokens, and BLEU, which is not a mean over rows, is a function of its summed
n-gram counts. So one bootstrap serves all measures; sacrebleu's own bootstrap resamples BLEU in the same way.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

RESAMPLES = 10_000
"""Number of resamples for a decision; fewer for many rows, whose interval is stable with fewer."""
DRAWS = 20_000_000
LEAST_RESAMPLES = 1000

Numbers = Sequence[float]
"""Numbers that one row adds to a measure's column sums."""
Measure = Callable[[Sequence[float]], float]
"""Function from the summed numbers of some rows to the measure's value over these rows."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its interval, ``low`` to ``high`` at a confidence level, from ``count`` observations."""

    value: float
    low: float
    high: float
    confidence: float
    count: int


def ratio(sums: Sequence[float]) -> float:
    """Return the first sum divided by the second, which is a mean; NaN where the second is zero."""
    return sums[0] / sums[1] if sums[1] else math.nan


def over(measure: Measure, rows: Sequence[Numbers]) -> float:
    """Return a measure's value over some rows."""
    return measure([sum(column) for column in zip(*rows, strict=True)])


def paired_bootstrap(
    one: Sequence[Numbers],
    other: Sequence[Numbers],
    measure: Measure,
    *,
    confidence: float = 0.95,
    resamples: int | None = None,
    seed: int = 0,
) -> Interval:
    """Return the difference of a measure between two sides on the same rows, with a two-sided percentile interval.

    Rows are drawn with replacement, the same rows for both sides (Efron and Tibshirani 1993, chapter 13; for
    translations Koehn 2004). The same seed gives the same interval.

    Args:
        one: The numbers of each row for the first side.
        other: The numbers of the same rows for the second side.
        measure: The compared measure.
        confidence: The confidence level of the interval, such as 0.95.
        resamples: The number of resamples; it depends on the number of rows unless given.
        seed: The seed of the draws.

    Raises:
        ValueError: There are no rows, or the sides have different numbers of rows.
    """
    count = len(one)
    if not count or count != len(other):
        raise ValueError(f"{count} and {len(other)} rows can't be compared in pairs")
    columns = [*zip(*one, strict=True), *zip(*other, strict=True)]
    half = len(one[0])
    dice, every = random.Random(seed), range(count)  # noqa: S311  (no secret)
    found: list[float] = []
    for _ in range(resamples or max(LEAST_RESAMPLES, min(RESAMPLES, DRAWS // count))):
        drawn = dice.choices(every, k=count)
        sums = [sum(map(column.__getitem__, drawn)) for column in columns]
        found.append(measure(sums[:half]) - measure(sums[half:]))
    found.sort()
    tail = (1 - confidence) / 2
    value = over(measure, one) - over(measure, other)
    return Interval(value, _quantile(found, tail), _quantile(found, 1 - tail), confidence, count)


def wilson(wins: int, decided: int, *, confidence: float = 0.95) -> Interval:
    """Return the share of wins with Wilson's score interval (Wilson 1927).

    The interval stays within 0 to 1 even for few decisions and extreme shares.

    Raises:
        ValueError: No decisions, or fewer decisions than wins.
    """
    if not 0 <= wins <= decided or not decided:
        raise ValueError(f"{wins} of {decided} is no share")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = wins / decided
    middle = (share + z * z / (2 * decided)) / (1 + z * z / decided)
    spread = z / (1 + z * z / decided) * math.sqrt(share * (1 - share) / decided + z * z / (4 * decided * decided))
    return Interval(share, max(0.0, middle - spread), min(1.0, middle + spread), confidence, decided)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Interpolate linearly between neighbours, like numpy's default quantile."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
