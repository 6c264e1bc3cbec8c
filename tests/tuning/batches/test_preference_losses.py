"""The losses of preferences, by one pinned number each; test_preference.py holds every one of DPO against TRL's."""

import math

import numpy as np
import pytest

from celora.tuning.batches.preference_losses import Ratios, dpo_loss, kto_loss, orpo_loss
from celora.tuning.recipe import LOSS_TYPES, Recipe


def ratios(chosen, rejected):
    return Ratios(
        chosen=np.array(chosen, dtype=float),
        rejected=np.array(rejected, dtype=float),
        chosen_tokens=np.full(len(chosen), 2.0),
        rejected_tokens=np.full(len(chosen), 4.0),
        chosen_nll=np.full(len(chosen), 3.0),
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sigmoid", math.log(1 + math.exp(-1.5))),  # logits 0.5 x (1 - -2)
        ("hinge", 0.0),
        ("ipo", (1 / 2 + 2 / 4 - 1) ** 2),
        ("apo_zero", 2 - 1 / (1 + math.exp(-0.5)) - 1 / (1 + math.exp(-1.0))),
        ("sppo_hard", 0.0 + 1.0),
        ("sft", 1.5),
    ],
)
def test_a_pair_that_moved_away_from_its_reference(name, expected):
    recipe = Recipe(method="dpo", beta=0.5, loss_type=[name])
    assert dpo_loss(recipe, ratios([1.0], [-2.0])) == pytest.approx(expected, abs=1e-12)


def test_a_model_that_is_its_reference_tosses_a_coin():
    assert dpo_loss(Recipe(method="dpo"), ratios([0, 0], [0, 0])) == pytest.approx(math.log(2))


def test_several_losses_add_up_with_their_weights():
    both = Recipe(method="dpo", loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.2])
    assert dpo_loss(both, ratios([0], [0])) == pytest.approx(math.log(2) + 0.2 * 1.5)


def test_no_loss_overflows_far_from_the_reference():
    far = ratios([-3000.0, 3000.0], [3000.0, -3000.0])
    for name in set(LOSS_TYPES["dpo"]) - {"discopop"}:  # its exponential part grows without bound, as in TRL
        recipe = Recipe(method="dpo", loss_type=[name], label_smoothing=0.1)
        assert math.isfinite(dpo_loss(recipe, far)), name


def test_kto_measures_from_the_mean_of_mismatched_answers_which_is_at_least_0():
    wanted = np.array([True, False])
    recipe = Recipe(method="kto", beta=1.0, undesirable_weight=2.0)
    at = np.array([1.0, 1.0])
    half, apart = kto_loss(recipe, at, wanted, np.array([0.5, 1.5])), 1 / (1 + math.exp(1.0))
    assert half == pytest.approx((0.5 + 2 * 0.5) / 2)  # both rewards lie at the point, 1
    below = kto_loss(recipe, at, wanted, np.array([-4.0, -4.0]))
    assert below == pytest.approx((apart + 2 * (1 - apart)) / 2)


def test_orpo_adds_the_odds_to_the_likelihood():
    recipe, half = Recipe(method="orpo", beta=0.5), np.array([math.log(0.5)])
    assert orpo_loss(recipe, half, half, 2.0) == pytest.approx(2.0 + 0.5 * math.log(2))
    assert orpo_loss(recipe, half, np.array([math.log(0.2)]), 2.0) == pytest.approx(2.0 + 0.5 * math.log(1 + 0.25))
