"""Rows of an evaluation: their numbers add up to the metrics of the set."""

import json

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from celora.tuning import metrics
from celora.tuning.evaluated import MEASURES, NEEDS, bleu, lines, measured, numbers, pairs, read
from celora.tuning.scoring import RowLosses

REFERENCES = ["the cat sat on the mat", "a kettle | broken | high | Maria", "yes", "no and no and no again"]
ANSWERS = ["the cat sat on a mat", "a kettle | broken | high | Maria", "", "no and yes and no again"]


def made(wanted=("exact_match", "rouge", "bleu")):
    rows = [{"prompt": f"p{i}", "reference": reference, "line": i} for i, reference in enumerate(REFERENCES)]
    losses = {
        "base": RowLosses([9.0, 8.0, 7.0, 6.0], [3, 4, 1, 5]),
        "tuned": RowLosses([3.0, 1.0, 0.5, 2.0], [3, 4, 1, 5]),
    }
    return lines(rows, losses, [0, 1, 2, 3], {"base": REFERENCES[::-1], "tuned": ANSWERS}, wanted)


def test_the_rows_numbers_make_the_very_metrics_of_the_set():
    whole, failed = metrics.text_metrics(["exact_match", "rouge", "bleu"], REFERENCES, ANSWERS)
    assert failed == []
    for name in NEEDS:
        assert measured(made(), "tuned", name) == pytest.approx(whole[name], abs=1e-9), name
    assert measured(made(), "tuned", "eval_loss") == pytest.approx(6.5 / 13)


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d.", "e"]), max_size=9).map(" ".join)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6))
def test_bleu_of_summed_counts_is_sacrebleus_over_the_corpus(texts):
    references, answers = [reference or "x" for reference, _ in texts], [answer for _, answer in texts]
    rows = metrics.row_scores(["bleu"], references, answers)
    sums = [sum(column) for column in zip(*(row["bleu"] for row in rows), strict=True)]
    assert bleu(sums) == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score, abs=1e-9)


def test_a_row_without_an_answer_or_a_trained_token_has_no_numbers():
    rows = [{"prompt": "p", "reference": "r"}] * 2
    found = lines(rows, {"tuned": RowLosses([1.0, 0.0], [2, 0])}, [0], {"tuned": ["r"]}, ["rouge"])
    assert [numbers(line, "tuned", "exact_match") for line in found] == [(1.0, 1.0), None]
    assert [numbers(line, "tuned", "eval_loss") for line in found] == [(1.0, 2), None]
    assert numbers(found[0], "tuned", "bleu") is None
    assert measured(found, "champion", "rouge_l") is None


def test_pairs_are_the_rows_that_both_answered():
    found = made()
    found[2]["exact_base"] = None
    ours, theirs = pairs(found, "tuned", "base", "exact_match")
    assert (len(ours), len(theirs)) == (3, 3)


def test_a_metric_that_breaks_keeps_the_answers(monkeypatch, capfd):
    def broken(*_):
        raise OSError("gone")

    monkeypatch.setattr(metrics, "rouge_rows", broken)
    found = made()
    assert [line["tuned"] for line in found] == ANSWERS
    assert measured(found, "tuned", "exact_match") == 0.25
    assert measured(found, "tuned", "rouge_l") is None
    assert "gone" in capfd.readouterr().err


def test_what_is_written_is_read_back():
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in made())
    assert read(text.encode()) == made()
    assert set(MEASURES) == {*NEEDS, "eval_loss"}
