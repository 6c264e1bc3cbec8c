"""The gate: a pure decision with its reason in words and numbers."""

import re

import pytest

from celora.models.promotion_gate import Gate
from celora.models.ratings import Votes
from celora.scheduling.promotion import LEAST_ROWS, judge


def rows(ours, theirs, count=60, **more):
    """So many rows of which the challenger has ``ours`` right and the champion ``theirs``, as nested as they can be."""
    return [
        {
            "prompt": f"p{i}", "reference": "r",
            "tuned": "r" if i < ours else "x", "champion": "r" if i < theirs else "x",
            "exact_tuned": i < ours, "exact_champion": i < theirs, "tokens": 4,
            "loss_tuned": 1.0 + 0.01 * (i % 3), "loss_champion": 1.1 + 0.01 * (i % 5), **more,
        }
        for i in range(count)
    ]  # fmt: skip


def decide(gate=None, lines=None, **more):
    return judge(Gate(**(gate or {})), rows(45, 30) if lines is None else lines, rival="champion", **more)


def test_a_clear_gain_is_promoted_with_its_numbers():
    verdict = decide()
    assert verdict.promote
    assert re.fullmatch(
        r"exact match \+25\.0 points, 95 % interval \+1\d\.\d … \+3\d\.\d over 60 rows", verdict.reason
    ), verdict.reason
    assert verdict.figures["value"] == 0.75
    assert verdict.figures["rival_value"] == 0.5
    assert verdict.figures["low"] > 0


def test_a_gain_that_may_be_chance_is_not_enough():
    verdict = decide(lines=rows(31, 30))
    assert not verdict.promote
    assert verdict.reason.startswith("exact match +1.7 points, 95 % interval +0.0 … +5.0")
    assert verdict.reason.endswith("not enough, it may be chance")


@pytest.mark.parametrize(
    ("ours", "gate", "said"),
    [
        (30, {}, "no gain"),
        (20, {}, "\N{MINUS SIGN}16.7 points"),
        (45, {"min_gain": 0.3}, "less than the +30.0 points that are asked for"),
        (31, {"confidence": None, "min_gain": 0.02}, "less than the +2.0 points"),
    ],
)
def test_what_is_no_gain_or_too_small_is_kept_and_says_so(ours, gate, said):
    verdict = decide(gate, rows(ours, 30))
    assert not verdict.promote
    assert said in verdict.reason


def test_without_a_confidence_the_bare_difference_counts():
    assert decide({"confidence": None}, rows(31, 30)).promote
    assert decide({"confidence": None}, rows(3, 2, count=4)).promote


def test_a_handful_of_rows_promotes_nobody():
    verdict = decide(lines=rows(LEAST_ROWS - 1, 0, count=LEAST_ROWS - 1))
    assert not verdict.promote
    assert "fewer than 10 rows" in verdict.reason
    assert decide(lines=rows(LEAST_ROWS, 0, count=LEAST_ROWS)).promote


def test_a_lower_loss_is_a_gain():
    verdict = decide({"metric": "eval_loss"})
    assert verdict.promote
    assert "eval loss \N{MINUS SIGN}0.1100 nats" in verdict.reason
    back = [{**line, "loss_tuned": line["loss_champion"], "loss_champion": line["loss_tuned"]} for line in rows(45, 30)]
    assert not decide({"metric": "eval_loss"}, back).promote


def test_what_may_not_regress_may_not_get_worse_by_anything():
    gate = {"must_not_regress": ["eval_loss"]}
    assert decide(gate).promote
    worse = [{**line, "loss_tuned": line["loss_champion"] + 1e-6} for line in rows(45, 30)]
    verdict = decide(gate, worse)
    assert not verdict.promote
    assert "eval loss +0.0000 nats may not regress" in verdict.reason
    same = [{**line, "loss_tuned": line["loss_champion"]} for line in rows(45, 30)]
    assert decide(gate, same).promote


def test_a_metric_that_was_not_measured_promotes_nobody():
    assert "was not measured for both" in decide({"metric": "rouge_l"}).reason
    assert not decide({"must_not_regress": ["bleu"]}).promote
    assert not decide(lines=[]).promote


def test_every_must_pass_row_has_to_be_right():
    gate = {"must_pass": "sure.jsonl"}
    assert decide(gate, must_pass=rows(3, 0, count=3)).promote
    verdict = decide(gate, must_pass=rows(2, 3, count=3))
    assert not verdict.promote
    assert "1 of 3 must-pass rows failed, first “p2”: wanted “r”, said “x”" in verdict.reason
    assert verdict.reason.startswith("exact match +25.0 points")
    assert not decide(gate, must_pass=[]).promote
    labelled = [{**row, "wanted": row["exact_tuned"]} for row in rows(2, 3, count=3)]  # (of kto: no unwanted answer)
    assert decide(gate, must_pass=labelled).promote
    assert "2 must-pass rows are too long" in decide(gate, must_pass=rows(3, 0, count=3), unasked=2).reason


@pytest.mark.parametrize(
    ("votes", "promoted", "said"),
    [
        (None, False, "nobody has rated the two yet"),
        (Votes(0, 0, 5), False, "nobody has rated the two yet"),
        (Votes(16, 4), True, "preferred in 80% of 20 ratings, 95 % interval 58% … 92%"),
        (Votes(12, 8), False, "may be chance"),
        (Votes(8, 12), False, "no gain"),
    ],
)
def test_people_decide_where_the_gate_asks_them(votes, promoted, said):
    verdict = decide({"metric": "preference"}, [], votes=votes)
    assert verdict.promote is promoted
    assert said in verdict.reason


def test_a_preference_has_to_be_as_clear_as_is_asked_for():
    assert decide({"metric": "preference", "min_gain": 0.25}, [], votes=Votes(16, 4)).promote
    assert "less than the 85%" in decide({"metric": "preference", "min_gain": 0.35}, [], votes=Votes(16, 4)).reason
