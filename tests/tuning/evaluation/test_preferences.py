"""Rewards of held-out preferences: the reference is right for no row, and unwanted answers are no references."""

import pytest


@pytest.fixture
def losses():
    from celora.tuning.batches.row_losses import RowLosses

    return lambda *sums: RowLosses(list(sums), [2] * len(sums))


def rows(labels):
    return [{"prompt": "p", "reference": "r", "line": n, "wanted": each == "+"} for n, each in enumerate(labels)]


def preferences(method, labels):
    from celora.tuning.evaluation.preferences import Preferences

    return Preferences.of(rows(labels), method, 0.5)


def test_rows_of_answers_are_no_preferences():
    from celora.tuning.evaluation.preferences import Preferences

    assert Preferences.of(rows("+"), "sft", 0.1) is None
    assert Preferences.of([{"prompt": "p"}], "dpo", 0.1) is None


def test_the_figures_of_pairs(losses):
    found = preferences("dpo", "+-+-")
    base = losses(4.0, 3.0, 4.0, 5.0)
    assert found.figures(base, base) == {
        "reward_accuracy": 0.0, "logp_accuracy": 0.5, "reward_margin": 0.0, "logps_wanted": -4.0,
        "logps_unwanted": -4.0, "tokens_wanted": 2.0, "tokens_unwanted": 2.0,
    }  # fmt: skip
    tuned = found.figures(losses(2.0, 3.0, 5.0, 5.0), base)
    assert (tuned["reward_accuracy"], tuned["logp_accuracy"]) == (0.5, 0.5)
    assert tuned["reward_margin"] == pytest.approx(0.5 * (2.0 - 1.0) / 2)


def test_a_labelled_answer_is_right_with_the_sign_of_its_label(losses):
    found = preferences("kto", "+--")
    figures = found.figures(losses(1.0, 5.0, 1.0), losses(2.0, 2.0, 2.0))
    assert figures["reward_accuracy"] == pytest.approx(2 / 3)
    assert "logp_accuracy" not in figures
    assert preferences("kto", "+").figures(losses(1.0), losses(2.0)) == {"reward_accuracy": 1.0}


def test_a_pair_is_one_line_and_an_unwanted_answer_has_no_loss(losses):
    from celora.tuning.evaluation.preferences import wanted_only

    base, tuned = losses(4.0, 4.0), losses(3.0, 6.0)
    pair = preferences("dpo", "+-")
    made = [{"loss_tuned": 1.5, "loss_base": 2.0}, {"loss_tuned": 3.0, "loss_base": 2.0}]
    (line,) = pair.complete(made, {"base": base, "tuned": tuned}, base)
    assert (line["reward_accuracy_tuned"], line["reward_margin_tuned"], line["loss_tuned"]) == (1.0, 1.5, 1.5)
    assert (line["reward_accuracy_base"], line["reward_margin_base"]) == (0.0, 0.0)
    single = preferences("kto", "+-")
    lines = single.complete([{"loss_tuned": 1.5}, {"loss_tuned": 3.0}], {"tuned": tuned}, base)
    assert [(each["wanted"], each["loss_tuned"]) for each in lines] == [(True, 1.5), (False, None)]
    assert wanted_only(tuned, single).sums == [3.0]
    assert wanted_only(tuned, None) is tuned
