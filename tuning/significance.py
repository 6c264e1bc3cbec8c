"""How sure a difference is: the paired bootstrap and Wilson's interval, by the standard library alone.

A gate is judged on the control worker, which has no numpy. Unusual: a measure is a function of column *sums*. Exact
match is hits / rows, the loss of a set is nats / tokens, and BLEU, which is no mean over rows, is a function of its
summed n-gram counts; so one bootstrap serves them all, and resampling a measure is what sacrebleu's own does.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

RESAMPLES = 10_000
"""Resamples of a decision; fewer where there are many rows, whose interval is steady anyhow."""
DRAWS = 20_000_000
LEAST_RESAMPLES = 1000

Numbers = Sequence[float]
"""What one row adds to the sums that a measure is made of."""
Measure = Callable[[Sequence[float]], float]
"""From the summed numbers of some rows to the measure's value over them."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and how sure it is: ``low`` to ``high`` at a confidence, from so many observations."""

    value: float
    low: float
    high: float
    confidence: float
    count: int


def ratio(sums: Sequence[float]) -> float:
    """A mean: the first number summed by the second; NaN over nothing."""
    return sums[0] / sums[1] if sums[1] else math.nan


def over(measure: Measure, rows: Sequence[Numbers]) -> float:
    """A measure's value over some rows."""
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
    """The difference of a measure between two on the same rows, with its two-sided percentile interval.

    Rows are drawn with replacement, the same ones for both (Efron and Tibshirani 1993, chapter 13; for translations
    Koehn 2004). The same seed gives the same interval.

    Args:
        one: Numbers of each row, of the first.
        other: The same rows, of the second.
        measure: What is compared.
        confidence: Of the interval, as 0.95.
        resamples: How often rows are drawn; by the number of rows unless given.
        seed: Of the draws.

    Raises:
        ValueError: There are no rows, or not as many of both.
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
    """The share of wins with Wilson's score interval (Wilson 1927), which stays in 0 to 1 also for few and extreme.

    Raises:
        ValueError: Nothing was decided, or less than was won.
    """
    if not 0 <= wins <= decided or not decided:
        raise ValueError(f"{wins} of {decided} is no share")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = wins / decided
    middle = (share + z * z / (2 * decided)) / (1 + z * z / decided)
    spread = z / (1 + z * z / decided) * math.sqrt(share * (1 - share) / decided + z * z / (4 * decided * decided))
    return Interval(share, max(0.0, middle - spread), min(1.0, middle + spread), confidence, decided)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between neighbours, as numpy's default."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
