"""The time of a device is divided among its runs by tokens, and its parts are the whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celora.tuning.training.device_shares import DeviceShares, divide_ms

tokens_ = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 10**9), min_size=1)


@given(st.integers(0, 10**9), tokens_)
def test_the_parts_of_a_span_are_the_span_and_follow_the_tokens(wall_ms, tokens):
    shares, total = divide_ms(wall_ms, tokens), sum(tokens.values())
    assert shares.keys() == tokens.keys()
    assert sum(shares.values()) == wall_ms
    for run, share_ms in shares.items():
        exact = wall_ms * tokens[run] / total if total else wall_ms / len(tokens)
        assert share_ms == pytest.approx(exact, abs=1.001, rel=1e-9)
        assert all(share_ms >= shares[other] - 1 for other in tokens if tokens[other] <= tokens[run])


@given(st.integers(0, 10**6), tokens_)
def test_the_order_of_the_runs_does_not_count(wall_ms, tokens):
    assert divide_ms(wall_ms, tokens) == divide_ms(wall_ms, dict(reversed(tokens.items())))


steps_ = st.lists(
    st.tuples(st.integers(0, 5_000), st.sampled_from("abc"), st.sampled_from(["turn", "step", "read"]),
              st.integers(0, 4096)),
    max_size=40,
)  # fmt: skip


@given(steps_)
def test_all_runs_together_have_the_time_in_which_one_was_inside(steps):
    shares, inside, at_ms, used_ms, charged_s = DeviceShares(), set[str](), 0, 0, 0.0
    for later_ms, run, act, tokens in steps:
        used_ms += later_ms if inside else 0
        at_ms += later_ms
        if act == "turn" and run in inside:
            charged_s += shares.leave(run, at_ms / 1000)
            inside.remove(run)
        elif act == "turn":
            shares.enter(run, at_ms / 1000)
            inside.add(run)
        elif run in inside and act == "step":
            shares.count(run, tokens)
        elif run in inside:
            assert 0 <= shares.share_s(run, at_ms / 1000) <= at_ms / 1000
    charged_s += sum(shares.leave(run, at_ms / 1000) for run in sorted(inside))
    assert round(charged_s * 1000) == used_ms


def test_a_run_that_is_alone_has_all_and_two_share_by_their_tokens():
    shares = DeviceShares()
    shares.enter("a", 5.0)
    shares.enter("b", 5.0)
    shares.count("a", 2000)
    shares.count("b", 1000)
    assert shares.leave("b", 15.0) == 3.333
    assert shares.leave("a", 20.0) == 6.667 + 5.0


def test_a_clock_that_goes_back_charges_nothing():
    shares = DeviceShares()
    shares.enter("a", 10.0)
    assert shares.share_s("a", 9.0) == 0.0
    assert shares.leave("a", 11.0) == 1.0
