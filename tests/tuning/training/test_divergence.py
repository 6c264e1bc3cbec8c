import json
import math

import numpy as np
import pytest

from celora.tuning.training.divergence import WINDOW, LossWatch

GUESS = math.log(32_000)


def fires_at(losses, guess=GUESS):
    """The step at which the watch fires, counted from 1; None where it never does."""
    watch = LossWatch(guess)
    return next((number for number, loss in enumerate(losses, 1) if watch.add(float(loss))), None)


def learning(steps, noise, *, start=2.5, end=0.8):
    return end + (start - end) * np.exp(-np.arange(steps) / (steps / 4)) + noise


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["gaussian", "heavy tails", "two kinds of rows", "learns nothing", "spikes"])
def test_noise_of_any_shape_never_passes_for_divergence(kind, seed):
    rng, steps = np.random.default_rng(seed), 4000
    match kind:
        case "gaussian":
            losses = learning(steps, rng.normal(0, 0.6, steps))
        case "heavy tails":
            losses = learning(steps, rng.standard_t(1.5, steps))
        case "two kinds of rows":
            losses = np.where(rng.random(steps) < 0.45, 4.0, 0.1)
        case "learns nothing":
            losses = rng.gamma(2.0, 1.0, steps)
        case _:
            losses = learning(steps, np.where(rng.random(steps) < 0.05, 6.0, 0.0))
    assert fires_at(losses) is None


@pytest.mark.parametrize("after", [40, 400, 4000])
def test_a_run_that_breaks_later_is_stopped_within_a_window(after):
    rng = np.random.default_rng(0)
    losses = np.concatenate([learning(after, rng.normal(0, 0.3, after)), rng.normal(8, 0.5, 100)])
    assert after + WINDOW - 1 <= fires_at(losses) <= after + WINDOW + 1


def test_a_run_that_breaks_within_its_first_steps_is_stopped_at_the_end_of_the_first_window():
    rng = np.random.default_rng(0)
    losses = np.concatenate([[2.4, 2.6, 2.5], np.linspace(3, 14, 5), rng.normal(14, 0.5, 60)])
    assert WINDOW <= fires_at(losses) <= WINDOW + 8
    assert fires_at(losses, guess=None) is None  # the ranks alone cannot tell: it began like that


def test_foreign_data_that_a_base_knows_nothing_of_may_begin_worse_than_guessing():
    rng = np.random.default_rng(0)
    assert fires_at(13 + rng.normal(0, 0.3, 500)) is None


def test_worse_than_before_but_not_than_at_its_beginning_is_no_divergence():
    rng = np.random.default_rng(0)
    losses = np.concatenate([learning(300, rng.normal(0, 0.1, 300)), rng.normal(2.4, 0.1, 300)])
    assert fires_at(losses) is None


def test_one_good_step_among_the_bad_ones_hides_nothing_and_two_do():
    watch = LossWatch(None, first=[2.0] * WINDOW, last=[9.0] * 18 + [1.0])
    assert watch.add(9.0)
    watch = LossWatch(None, first=[2.0] * WINDOW, last=[9.0] * 17 + [1.0, 1.0])
    assert not watch.add(9.0)


def test_its_state_goes_through_json_and_decides_the_same():
    rng = np.random.default_rng(1)
    losses = np.concatenate([learning(60, rng.normal(0, 0.3, 60)), rng.normal(8, 0.5, 40)])
    whole = fires_at(losses)
    for cut in (5, 30, 65):
        watch = LossWatch(GUESS)
        for loss in losses[:cut]:
            watch.add(float(loss))
        again = LossWatch(GUESS, **json.loads(json.dumps({"first": watch.first, "last": watch.last})))
        rest = [number for number, loss in enumerate(losses[cut:], cut + 1) if again.add(float(loss))]
        assert rest[0] == whole
