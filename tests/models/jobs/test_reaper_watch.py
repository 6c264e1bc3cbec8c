"""Since when the record is watched: an outage begins the count anew, whoever looks."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from celora.models.jobs.reaper_watch import watch
from celora.models.scope.scope import Scope
from celora.models.tables import Beacon


def looked(database, lapse_s=10):
    with database.transaction(Scope.everything) as session:
        return watch(session, "reaper", lapse_s=lapse_s)


def age(database, **seconds):
    """Move times of the row into the past, as if nobody had looked since."""
    with database.transaction(Scope.everything) as session:
        values = {name: getattr(Beacon, name) for name in seconds}
        row = session.get_one(Beacon, "reaper")
        values = {name: getattr(row, name) - timedelta(seconds=by) for name, by in seconds.items()}
        session.execute(update(Beacon).values(**values))


def test_a_record_nobody_watched_yet_counts_as_watched_for_long(database):
    assert looked(database) > 3600


def test_the_first_look_after_a_lapse_begins_the_count_anew(database):
    looked(database)
    age(database, seen_at=11)
    assert looked(database) == 0
    age(database, seen_at=9, since=9)
    assert looked(database) == pytest.approx(9, abs=1)


def test_a_look_that_is_rolled_back_does_not_count(database):
    looked(database)
    age(database, seen_at=11)
    with database.transaction(Scope.everything) as session:
        watch(session, "reaper", lapse_s=10)
        session.rollback()
    assert looked(database) == 0


def test_a_clock_that_was_set_back_begins_the_count_anew_and_later_gaps_are_seen(database):
    looked(database)
    age(database, seen_at=-86400)
    assert looked(database) == 0
    age(database, seen_at=9, since=9)
    assert looked(database) == pytest.approx(9, abs=1)
    age(database, seen_at=11)
    assert looked(database) == 0


def test_two_reapers_whose_transactions_overlap_do_not_begin_the_count_anew(database):
    looked(database)
    age(database, seen_at=-2)
    assert looked(database) > 3600
