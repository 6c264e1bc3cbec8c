"""The correction of an estimate is the median of its runs, with their spread."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celora.scheduling.history import LEAST_RUNS, NARROW_RUNS, UNKNOWN, correction, excess


def test_a_few_runs_correct_nothing():
    assert correction([]) == correction([9.0] * (LEAST_RUNS - 1)) == UNKNOWN


def test_ten_runs_give_their_median_and_the_range_of_the_middle_eight():
    found = correction([1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0])
    assert (found.factor, found.low, found.high, found.runs) == (pytest.approx(1.55), 1.2, 1.9, 10)


def test_one_run_that_was_disturbed_moves_neither_the_factor_nor_the_range():
    calm = correction([1.0] * 19 + [1.1])
    assert correction([1.0] * 19 + [50.0]) == calm


def test_between_three_and_ten_runs_the_range_stays_wide():
    found = correction([2.0] * (NARROW_RUNS - 1))
    assert (found.low, found.factor, found.high) == (1.5, 2.0, 3.0)
    assert correction([2.0] * NARROW_RUNS).low == 2.0


@given(st.lists(st.floats(0.01, 100), min_size=LEAST_RUNS, max_size=60))
def test_the_factor_lies_in_its_range_whatever_the_order(factors):
    found = correction(factors)
    assert found.low <= found.factor <= found.high
    assert found == correction(reversed(factors))


def test_memory_is_never_estimated_lower_and_as_high_as_nine_of_ten_runs_needed():
    assert excess([1.5, 1.5]) == 1.0
    assert excess([0.7, 0.8, 0.9]) == 1.0
    assert excess([1.0, 1.2, 1.4]) == 1.4
    assert excess([*[1.1] * 18, 1.2, 9.0]) == 1.1
