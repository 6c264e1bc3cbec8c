"""Series of measurements: reduced, with their extremes, and of the later attempt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celora.errors import RequestError
from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.states import Stage
from celora.models.tables import MetricPoint
from celora.services.native.series import Span, counting, reduce, series
from celora.settings.settings import get_settings


@pytest.fixture
def record(database, home, monkeypatch):
    """A record of each kind."""
    monkeypatch.setenv("CELORA_DATABASE_URL", database.url.render_as_string(hide_password=False))
    get_settings.cache_clear()
    return get_database()


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), most=st.integers(4, 50))
def test_a_reduced_series_is_short_and_keeps_its_extremes_and_its_ends(values, most):
    points = list(enumerate(values))
    found = reduce(points, most)
    assert len(found) <= most
    assert set(found) <= set(points)
    assert found == sorted(found)
    assert (found[0], found[-1]) == (points[0], points[-1])
    assert {min(values), max(values)} <= {value for _, value in found}


def test_a_job_shows_the_series_that_are_asked_for(submit):
    moved = submit()
    moved.begin(Stage.PREPARE)
    moved.finish(Stage.PREPARE, base={"name": "tiny", "revision": "r1"})
    moved.begin(Stage.TRAIN)
    moved.measure(*({"step": step, "train_loss": 1 / step, "grad_norm": float(step)} for step in range(1, 21)))
    found = series("team-a", "job-1", ["train_loss", "eval_loss"], 6)
    assert set(found) == {"train_loss", "eval_loss"}
    assert found["eval_loss"] == []
    assert (found["train_loss"][0], found["train_loss"][-1]) == ((1, 1.0), (20, 0.05))
    assert len(found["train_loss"]) <= 6
    with pytest.raises(RequestError):
        series("team-b", "job-1", ["train_loss"], 6)


@pytest.mark.parametrize(
    ("attempts", "kept"),
    [
        ([Span(1, 30, 1)], [Span(1, 30, 1)]),
        ([Span(1, 30, 1), Span(21, 25, 2)], [Span(1, 20, 1), Span(21, 25, 2), Span(26, 30, 1)]),
        ([Span(1, 30, 1), Span(11, 40, 2), Span(21, 25, 3)],
         [Span(1, 10, 1), Span(11, 20, 2), Span(21, 25, 3), Span(26, 40, 2)]),
        ([Span(5, 9, 1), Span(1, 20, 2)], [Span(1, 20, 2)]),
        ([], []),
    ],
)  # fmt: skip
def test_the_steps_that_a_later_attempt_did_again_do_not_count(attempts, kept):
    assert counting(attempts) == kept


def test_a_long_series_is_reduced_by_the_database_to_the_same_extremes(submit, record, monkeypatch):
    submit()
    rows = [(1, step, 9.0) for step in range(1, 161)]
    rows += [(2, step, 1.0 + step % 7 % 3) for step in range(101, 301)]
    rows += [(3, step, 50.0 if step == 190 else 2.5) for step in range(181, 201)]
    with record.transaction(Scope.everything) as session:
        at = record.now(session)
        session.add_all(
            MetricPoint(job_id="job-1", attempt=attempt, step=step, at=at, train_loss=loss, eval_loss=None)
            for attempt, step, loss in rows
        )
    counted = {step: loss for _, step, loss in rows}
    whole = series("team-a", "job-1", ["train_loss"], 1000)["train_loss"]
    assert dict(whole) == counted
    monkeypatch.setattr("celora.services.native.series.READ_WHOLE", 10)
    for most in (4, 30, 200):
        found = series("team-a", "job-1", ["train_loss", "eval_loss"], most)
        points = found["train_loss"]
        assert found["eval_loss"] == []
        assert len(points) <= most
        assert points == sorted(points)
        assert (points[0][0], points[-1][0]) == (1, 300)
        assert (190, 50.0) in points
        assert all(counted[step] == loss for step, loss in points)
