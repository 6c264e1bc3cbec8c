"""The level of a tenant: use of late, by weight."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celora.scheduling.fair_share import Shares, decayed, returning
from celora.scheduling.records import Account, Holding, Rules

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
RULES = Rules(unknown_s=600)


def levels(accounts, holdings=()):
    shares = Shares(accounts, holdings, RULES, NOON)
    return {name: shares.level(name)[0] for name in accounts}


def test_use_counts_half_after_each_half_life():
    assert decayed(100, 3600, 3600) == pytest.approx(50)
    assert decayed(100, 7200, 3600) == pytest.approx(25)
    assert decayed(100, -5, 3600) == 100


def test_a_level_is_use_by_weight():
    assert levels({"a": Account(used_s=600), "b": Account(used_s=600, weight=3)}) == {"a": 600, "b": 200}


def test_a_job_counts_with_what_it_will_take_or_has_taken_already():
    hour_ago = NOON - timedelta(hours=1)
    holdings = [
        Holding(tenant="a", gpu_type="h100", expected_s=900),
        Holding(tenant="b", gpu_type="h100", expected_s=900, since=hour_ago),
        Holding(tenant="c", gpu_type="h100"),
        Holding(tenant="d", gpu_type=None),
    ]
    assert levels({name: Account() for name in "abcd"}, holdings) == {"a": 900, "b": 3600, "c": 600, "d": 0}


def test_prep_slots_are_shared_by_their_number():
    shares = Shares({"a": Account(used_s=9), "b": Account()}, [Holding(tenant="b", gpu_type=None)], RULES, NOON)
    assert shares.level("a", on_gpu=False) < shares.level("b", on_gpu=False)
    shares.charge("a", None, {})
    assert shares.level("b", on_gpu=False) < shares.level("a", on_gpu=False)


def test_who_comes_back_is_at_most_a_credit_behind_the_lowest():
    assert returning(0, 1, [5000, 9000], 3600) == 1400
    assert returning(0, 2, [5000, 9000], 3600) == 2800
    assert returning(7000, 1, [5000, 9000], 3600) == 7000
    assert returning(5, 1, [], 3600) == 5


@given(st.floats(0, 1e9), st.floats(0.01, 100), st.lists(st.floats(0, 1e9), max_size=5), st.floats(0, 1e6))
def test_coming_back_never_lowers_the_use_and_never_leaves_more_than_the_credit(used_s, weight, others, credit_s):
    found = returning(used_s, weight, others, credit_s)
    assert found >= used_s
    if others:
        assert found / weight >= min(others) - credit_s - 1e-6 * max(1, min(others))
