"""The scores of held-out preferences under a model, and the loss that the evaluate stage finds again."""

import math

import numpy as np
import pytest

from celora.tuning.batches.prepared_set import PreparedSet

SETS = PreparedSet(
    "eval",
    np.arange(3, 15, dtype=np.int32),
    np.array([0, 1, 1] * 4, dtype=np.uint8),
    np.array([0, 3, 6, 9, 12], dtype=np.int64),
    np.array([1, 0, 1, 0], dtype=np.uint8),
)


def scores(sums, others=None, whole=None):
    from celora.tuning.batches.preference_scores import Scores
    from celora.tuning.batches.row_losses import RowLosses

    more = [None if each is None else RowLosses(each, [2] * len(each)) for each in (others, whole)]
    return Scores(RowLosses(sums, [2] * len(sums)), *more)


@pytest.fixture
def recipe(make_request):
    def make(method):
        return make_request(method=method, beta=1.0).resolved

    return make


def test_the_loss_of_pairs_compares_model_and_reference(recipe):
    from celora.tuning.batches.preference_scores import labels_of, method_loss

    assert labels_of(SETS).tolist() == [True, False, True, False]
    reference = scores([4.0, 4.0, 4.0, 4.0])
    assert method_loss(recipe("dpo"), SETS, reference, reference) == pytest.approx(math.log(2))
    better = method_loss(recipe("dpo"), SETS, scores([3.0, 5.0, 3.0, 5.0]), reference)
    assert better == pytest.approx(math.log(1 + math.exp(-2)))


def test_kto_takes_its_point_from_mismatched_answers(recipe):
    from celora.tuning.batches.preference_scores import method_loss

    reference = scores([4.0] * 4, others=[9.0] * 4)
    found = method_loss(recipe("kto"), SETS, scores([4.0] * 4, others=[8.0] * 4), reference)
    away = 1 / (1 + math.exp(1.0))
    assert found == pytest.approx((2 * (1 - away) + 2 * away) / 4)


def test_orpo_has_no_reference(recipe):
    from celora.tuning.batches.preference_scores import method_loss

    model = scores([2.0] * 4, whole=[3.0, 3.0])
    assert method_loss(recipe("orpo"), SETS, model, None) == pytest.approx(1.5 + math.log(2))
