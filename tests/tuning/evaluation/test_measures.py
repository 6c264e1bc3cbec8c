"""The measures: the numbers of single rows add up to the metrics of the set, and to sacrebleu's corpus BLEU."""

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from celora.tuning.batches.row_losses import RowLosses
from celora.tuning.evaluation import metrics
from celora.tuning.evaluation.measures import (
    LABELS,
    MEASURES,
    NEEDS,
    PREFERENCE_MEASURES,
    TOOL_MEASURES,
    bleu,
    measured,
    numbers,
    pairs,
)
from celora.tuning.evaluation.readings import Reading
from celora.tuning.evaluation.result_rows import lines

REFERENCES = ["the cat sat on the mat", "a kettle | broken | high | Maria", "yes", "no and no and no again"]
ANSWERS = ["the cat sat on a mat", "a kettle | broken | high | Maria", "", "no and yes and no again"]


def plain(texts):
    return [Reading.plain(text) for text in texts]


def made(wanted=("exact_match", "rouge", "bleu")):
    rows = [{"prompt": f"p{i}", "reference": reference, "line": i} for i, reference in enumerate(REFERENCES)]
    losses = {
        "base": RowLosses([9.0, 8.0, 7.0, 6.0], [3, 4, 1, 5]),
        "tuned": RowLosses([3.0, 1.0, 0.5, 2.0], [3, 4, 1, 5]),
    }
    answers = {"base": plain(REFERENCES[::-1]), "tuned": plain(ANSWERS)}
    return lines(rows, losses, [0, 1, 2, 3], answers, wanted, references=plain(REFERENCES))


def test_the_rows_numbers_make_the_very_metrics_of_the_set():
    whole, failed = metrics.text_metrics(["exact_match", "rouge", "bleu"], REFERENCES, ANSWERS)
    assert failed == []
    for name in set(NEEDS) - {*TOOL_MEASURES, "exact_match_raw"}:
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
    losses = {"tuned": RowLosses([1.0, 0.0], [2, 0])}
    found = lines(rows, losses, [0], {"tuned": plain(["r"])}, ["rouge"], references=plain(["r"]))
    assert [numbers(line, "tuned", "exact_match") for line in found] == [(1.0, 1.0), None]
    assert [numbers(line, "tuned", "eval_loss") for line in found] == [(1.0, 2), None]
    assert numbers(found[0], "tuned", "bleu") is None
    assert measured(found, "champion", "rouge_l") is None


def test_pairs_are_the_rows_that_both_answered():
    found = made()
    found[2]["exact_base"] = None
    ours, theirs = pairs(found, "tuned", "base", "exact_match")
    assert (len(ours), len(theirs)) == (3, 3)


def test_every_measure_has_a_label_and_all_but_the_loss_have_to_be_asked_for():
    assert set(MEASURES) == {*NEEDS, "eval_loss", *PREFERENCE_MEASURES}
    assert set(LABELS) == {*MEASURES, "preference"}
