"""The paired bootstrap and Wilson's interval against scipy on the same scores, and what they say at the edges."""

import numpy as np
import pytest
from scipy import stats

from celora.tuning.evaluation.significance import over, paired_bootstrap, ratio, wilson


def flags(count, share, seed):
    return [(float(thrown < share), 1.0) for thrown in np.random.default_rng(seed).random(count)]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "shares"), [(48, (0.6, 0.5)), (200, (0.72, 0.70)), (200, (0.9, 0.4))])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_paired_bootstrap_equals_scipys_within_the_noise_of_resampling(count, shares, confidence):
    one, other = flags(count, shares[0], 1), flags(count, shares[1], 2)
    ours = paired_bootstrap(one, other, ratio, confidence=confidence, resamples=10_000)
    theirs = stats.bootstrap(
        (np.array([row[0] for row in one]), np.array([row[0] for row in other])),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=confidence,
        n_resamples=10_000,
        rng=np.random.default_rng(0),
    )
    step = 1.001 / count  # a quantile of a lattice may fall on the next point
    assert ours.value == pytest.approx(over(ratio, one) - over(ratio, other))
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=step)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=step)


@pytest.mark.slow
def test_a_loss_is_a_ratio_of_sums_and_its_interval_is_scipys():
    dice = np.random.default_rng(3)
    tokens = dice.integers(3, 40, 150).astype(float)
    one, other = dice.gamma(2.0, 1.0, 150) * tokens, dice.gamma(2.0, 1.1, 150) * tokens
    ours = paired_bootstrap(
        list(zip(one, tokens, strict=True)), list(zip(other, tokens, strict=True)), ratio, resamples=10_000
    )
    theirs = stats.bootstrap(
        (one, other, tokens),
        lambda a, b, t, axis: (a.sum(axis) - b.sum(axis)) / t.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(0),
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.04 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.04 * width)


@pytest.mark.slow
def test_about_as_many_intervals_as_promised_hold_the_truth():
    held = 0
    for seed in range(150):
        one, other = flags(100, 0.6, 2 * seed), flags(100, 0.5, 2 * seed + 1)
        found = paired_bootstrap(one, other, ratio, confidence=0.9, resamples=200, seed=seed)
        held += found.low <= 0.1 <= found.high
    assert 122 <= held <= 148  # 135 of 150 expected; 3.5 standard deviations


@pytest.mark.parametrize("wins", [0, 1, 7, 29, 30])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilsons_interval_equals_scipys(wins, confidence):
    ours = wilson(wins, 30, confidence=confidence)
    theirs = stats.binomtest(wins, 30).proportion_ci(confidence_level=confidence, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.value == wins / 30


def test_the_same_seed_gives_the_same_interval():
    one, other = flags(60, 0.6, 1), flags(60, 0.5, 2)
    assert paired_bootstrap(one, other, ratio, resamples=500) == paired_bootstrap(one, other, ratio, resamples=500)
    assert paired_bootstrap(one, other, ratio, resamples=500) != paired_bootstrap(
        one, other, ratio, resamples=500, seed=1
    )


def test_the_interval_turns_around_with_the_sides():
    one, other = flags(80, 0.7, 1), flags(80, 0.5, 2)
    ahead, behind = (paired_bootstrap(*sides, ratio, resamples=2000) for sides in ((one, other), (other, one)))
    assert (ahead.value, ahead.low, ahead.high) == pytest.approx((-behind.value, -behind.high, -behind.low))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="0 and 0 rows"):
        paired_bootstrap([], [], ratio)
    with pytest.raises(ValueError, match="2 and 1 rows"):
        paired_bootstrap(flags(2, 1, 1), flags(1, 1, 1), ratio)
    with pytest.raises(ValueError, match="0 of 0"):
        wilson(0, 0)
