"""Reads the measurements of a job as series for a chart, reduced to a number of points with their extremes kept.

A short series is read whole and reduced here. Of a long one the database finds the lowest and the highest value of each
stretch, so that a job with 100,000 steps costs no more rows than its chart has points.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, false, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from ...models.database import get_database
from ...models.openai import job_requests
from ...models.scope.scope import Scope
from ...models.tables import MetricPoint

Point = tuple[int, float]
"""A step and the value that was measured there."""
Value = InstrumentedAttribute[float | None]
NAMES = (
    "train_loss", "train_accuracy", "eval_loss", "eval_accuracy", "learning_rate", "grad_norm", "tokens_per_s",
    "gpu_memory_bytes", "gpu_utilisation",
)  # fmt: skip
"""The series of a job."""
READ_WHOLE = 4_000
"""Steps up to which a series is read whole."""


@dataclass(frozen=True, order=True)
class Span:
    """Steps of one attempt, from the first to the last."""

    first: int
    last: int
    attempt: int

    def without(self, other: "Span") -> Iterator["Span"]:
        """Yield what is left of these steps where another attempt did some of them."""
        for first, last in (
            (self.first, min(self.last, other.first - 1)),
            (max(self.first, other.last + 1), self.last),
        ):
            if first <= last:
                yield Span(first, last, self.attempt)


def series(tenant: str, job_id: str, names: Sequence[str], most_points: int) -> dict[str, list[Point]]:
    """Return series of a job by name; of steps that several attempts did, the later attempt's values count.

    Args:
        tenant: The owner.
        job_id: The job.
        names: Some of ``NAMES``.
        most_points: Points of a series, at most.

    Raises:
        RequestError: There is no such job (404).
    """
    with get_database().session(Scope.of(tenant)) as session:
        job_requests.find_job(session, tenant, job_id)
        spans = _spans(session, job_id)
        return {name: _series(session, job_id, spans, getattr(MetricPoint, name), most_points) for name in names}


def _spans(session: Session, job_id: str) -> list[Span]:
    """Return the steps that count, by attempt."""
    columns = (func.min(MetricPoint.step), func.max(MetricPoint.step), MetricPoint.attempt)
    found = select(*columns).where(MetricPoint.job_id == job_id).group_by(MetricPoint.attempt)
    attempts = [Span(first, last, attempt) for first, last, attempt in session.execute(found)]
    return counting(attempts)


def counting(attempts: Sequence[Span]) -> list[Span]:
    """Return the steps that count: those that no later attempt did again.

    Example:
        Attempt 1 did the steps 1 to 30, and attempt 2 the steps 21 to 25: 1 to 20 and 26 to 30 of the first count.
    """
    kept: list[Span] = []
    for one in sorted(attempts, key=lambda span: span.attempt, reverse=True):
        left = [one]
        for later in [span for span in attempts if span.attempt > one.attempt]:
            left = [part for span in left for part in span.without(later)]
        kept += left
    return sorted(kept)


def _series(session: Session, job_id: str, spans: Sequence[Span], value: Value, most_points: int) -> list[Point]:
    mine = _measured(job_id, spans, value)
    if sum(span.last - span.first + 1 for span in spans) <= READ_WHOLE:
        rows = session.execute(select(MetricPoint.step, value).where(mine).order_by(MetricPoint.step))
        return reduce([(step, float(found)) for step, found in rows if found is not None], most_points)
    return _reduced_by_database(session, mine, spans, value, most_points)


def _measured(job_id: str, spans: Sequence[Span], value: Value) -> ColumnElement[bool]:
    """Return the condition of the points that count and have a value."""
    within = [and_(MetricPoint.attempt == one.attempt, MetricPoint.step.between(one.first, one.last)) for one in spans]
    return and_(MetricPoint.job_id == job_id, value.is_not(None), or_(false(), *within))


def _reduced_by_database(
    session: Session, mine: ColumnElement[bool], spans: Sequence[Span], value: Value, most_points: int
) -> list[Point]:
    """Read the first and the last point, and the lowest and the highest of each stretch; of equal ones the first."""
    start, steps = spans[0].first, spans[-1].last - spans[0].first + 1
    stretch = (MetricPoint.step - start) // -(-steps // _stretches(most_points))
    ends = select(stretch.label("stretch"), func.min(value).label("low"), func.max(value).label("high")).where(mine)
    extremes = ends.group_by(stretch).subquery()
    extreme = or_(value == extremes.c.low, value == extremes.c.high)
    chosen = select(func.min(MetricPoint.step), value).join(extremes, extremes.c.stretch == stretch)
    points = {(step, found) for step, found in session.execute(chosen.where(mine, extreme).group_by(stretch, value))}
    whole = select(MetricPoint.step, value).where(mine)
    for order in (MetricPoint.step.asc(), MetricPoint.step.desc()):
        points |= {(step, found) for step, found in session.execute(whole.order_by(order).limit(1))}
    return [(step, float(found)) for step, found in sorted(points) if found is not None]


def _stretches(most_points: int) -> int:
    """Return the number of stretches of a reduced series: two points of each, and the series' two ends."""
    return max(1, (most_points - 2) // 2)


def reduce(points: Sequence[Point], most_points: int) -> list[Point]:
    """Reduce a series: of each stretch its lowest and its highest point stay, and the series' first and last point.

    A spike of one step therefore stays visible, however many steps there are.

    Example:
        Ten points with a spike at step 7, reduced to 6, still hold step 7.
    """
    if len(points) <= most_points:
        return list(points)
    stretches = _stretches(most_points)
    kept = {points[0], points[-1]}
    for number in range(stretches):
        part = points[len(points) * number // stretches : len(points) * (number + 1) // stretches]
        kept |= {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
    return sorted(kept)
