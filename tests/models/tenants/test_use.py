"""Use is counted in whole units, and a month's end splits it without losing one."""

from datetime import UTC, datetime, timedelta

import pytest

from celora.errors import SettingsError
from celora.models.tenants.use import MOST, Use, check_month, month_of, split_by_month

MIDNIGHT = datetime(2026, 12, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_seconds_and_money_become_whole_units():
    assert Use.of(1.5, 0.25) == Use(1500, 250_000)
    assert (Use.of(90, 0).minutes, Use.of(0, 1.25).cost) == (1.5, 1.25)


def test_an_impossible_estimate_is_bounded():
    assert Use.of(1e300, float("inf")) == Use(MOST, MOST)
    assert Use.of(float("nan"), 0.25) == Use(MOST, 250_000)


def test_a_month_is_utc_whatever_the_clock_shows():
    assert month_of(datetime.fromisoformat("2026-12-01T00:30:00+01:00")) == "2026-11"


def test_within_a_month_nothing_is_split():
    assert split_by_month(MIDNIGHT - HOUR, MIDNIGHT - HOUR / 2, Use(7, 9)) == [("2026-11", Use(7, 9))]


def test_a_months_end_splits_in_proportion():
    assert split_by_month(MIDNIGHT - HOUR, MIDNIGHT + HOUR, Use(100, 10)) == [
        ("2026-11", Use(50, 5)),
        ("2026-12", Use(50, 5)),
    ]


def test_no_unit_is_lost_over_several_months():
    parts = split_by_month(datetime(2026, 10, 7, 5, tzinfo=UTC), datetime(2027, 1, 3, tzinfo=UTC), Use(1_000_003, 77))
    assert [month for month, _ in parts] == ["2026-10", "2026-11", "2026-12", "2027-01"]
    assert sum((part for _, part in parts), Use()) == Use(1_000_003, 77)


def test_a_span_without_length_is_charged_to_its_end():
    assert split_by_month(MIDNIGHT, MIDNIGHT, Use(5, 5)) == [("2026-12", Use(5, 5))]


@pytest.mark.parametrize("words", ["", "2026", "2026-13", "2026-1", "26-11", "2026-11-01", "november", "2026-11\0"])
def test_what_is_no_month_is_refused(words):
    with pytest.raises(SettingsError, match="no month"):
        check_month(words)


def test_a_month_is_returned():
    assert check_month("2026-11") == "2026-11"
