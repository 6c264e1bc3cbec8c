"""Which runs happen after a while of silence, and what happens to one whose predecessor is not over."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celora.scheduling.cron import Rhythm, between
from celora.scheduling.due import COUNTED, Before, Missed, Overlap, Step, choose_step, find_due

START = datetime(2026, 11, 24, tzinfo=UTC)
HOURLY = Rhythm(every_s=3600, anchor=START)


def at(hours):
    return START + timedelta(hours=hours)


def test_a_run_that_is_a_little_late_runs_as_if_it_were_not():
    due = find_due(HOURLY, START, at(1.05), late_s=300, missed=Missed.SKIP)
    assert (due.times, due.gap, due.next_time) == ((at(1),), None, at(2))


def test_several_that_are_a_little_late_all_run():
    due = find_due(
        Rhythm(every_s=5, anchor=START), START, START + timedelta(seconds=23), late_s=300, missed=Missed.RUN_ONCE
    )
    assert [(at - START).seconds for at in due.times] == [5, 10, 15, 20]


def test_after_a_night_of_silence_missed_runs_happen_once_or_not_at_all():
    once = find_due(HOURLY, START, at(9.5), late_s=300, missed=Missed.RUN_ONCE)
    never = find_due(HOURLY, START, at(9.5), late_s=300, missed=Missed.SKIP)
    assert (once.times, never.times) == ((at(9),), ())
    assert once.gap == never.gap
    assert (once.gap.first, once.gap.last, once.gap.count) == (at(1), at(9), 9)
    assert str(once.gap) == "9 runs were missed from 2026-11-24 01:00:00 to 2026-11-24 09:00:00 UTC"


def test_a_run_on_time_stands_for_the_missed_ones():
    due = find_due(HOURLY, START, at(9.01), late_s=300, missed=Missed.RUN_ONCE)
    assert (due.times, due.gap.last, due.gap.count) == ((at(9),), at(8), 8)


def test_a_year_of_silence_is_counted_no_further_than_it_helps():
    due = find_due(
        Rhythm(every_s=1, anchor=START), START, START + timedelta(days=365), late_s=3, missed=Missed.RUN_ONCE
    )
    assert (len(due.times), due.gap.count) == (3, COUNTED + 1)
    assert "more than 1,000 runs were missed" in str(due.gap)


@pytest.mark.slow
@given(st.lists(st.integers(0, 20_000), max_size=30), st.integers(1, 3000), st.integers(1, 5000))
def test_however_often_one_looks_every_time_is_run_once(steps, every_s, late_s):
    rhythm = Rhythm(every_s=every_s, anchor=START)
    last, now, run, missed = START, START, [], 0
    for seconds in steps:
        now += timedelta(seconds=seconds)
        due = find_due(rhythm, last, now, late_s=late_s, missed=Missed.SKIP)
        run += due.times
        missed += due.gap.count if due.gap else 0
        passed = [*due.times, *([due.gap.last] if due.gap else [])]
        last = max(passed, default=last)
        assert due.next_time > now
    every = list(between(rhythm, START, now))
    assert len(run) == len(set(run))
    assert set(run) <= set(every)
    if missed <= COUNTED:
        assert len(run) + missed == len(every)


@pytest.mark.parametrize(
    ("overlap", "before", "queue", "expected"),
    [
        (Overlap.SKIP, Before.OVER, False, Step.SUBMIT),
        (Overlap.SKIP, Before.WAITING, False, Step.SKIP),
        (Overlap.SKIP, Before.RUNNING, False, Step.SKIP),
        (Overlap.QUEUE, Before.OVER, False, Step.SUBMIT),
        (Overlap.QUEUE, Before.OVER, True, Step.WAIT),
        (Overlap.QUEUE, Before.WAITING, False, Step.WAIT),
        (Overlap.QUEUE, Before.RUNNING, True, Step.WAIT),
        (Overlap.REPLACE, Before.WAITING, False, Step.REPLACE),
        (Overlap.REPLACE, Before.RUNNING, True, Step.WAIT),
        (Overlap.REPLACE, Before.OVER, False, Step.SUBMIT),
    ],
)
def test_what_happens_to_a_run_whose_predecessor_is_not_over(overlap, before, queue, expected):
    assert choose_step(overlap, before, queue=queue) is expected
