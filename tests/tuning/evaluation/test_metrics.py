import math
import subprocess
import sys

import pytest
from rouge_score import rouge_scorer

from celora.tuning.evaluation import metrics


def test_case_white_space_and_unicode_forms_do_not_count():
    assert metrics.exact("Leak | Kettle", "  leak |\n kettle ")
    assert metrics.exact("\uff21\uff11", "a1")  # full-width letters
    assert metrics.exact("Straße", "STRASSE")
    assert metrics.exact("caf\u00e9", "cafe\u0301")


@pytest.mark.parametrize("answer", ["42.", "'42'", "the 42", "4 2", "", "43"])
def test_exact_match_is_strict_about_everything_else(answer):
    assert not metrics.exact("42", answer)


def test_exact_match_is_the_share_of_equal_rows():
    assert metrics.exact_match(["a", "b", "c", "d"], ["A", "b ", "x", ""]) == 0.5


def test_rouge_of_a_known_pair():
    # reference 4 words, answer 3, all 3 found, 2 of the 2 bigrams of the answer in the 3 of the reference
    found = metrics.rouge(["the cat sat down"], ["the cat sat"])
    assert found["rouge_1"] == pytest.approx(2 * 1 * 0.75 / 1.75)
    assert found["rouge_2"] == pytest.approx(2 * 1 * (2 / 3) / (5 / 3))
    assert found["rouge_l"] == pytest.approx(found["rouge_1"])


def test_rouge_equals_the_library_on_english():
    pairs = [
        ("Order 66-B arrived, broken_lid!", "order 66 arrived with a broken lid"),
        ("don't panic", "do not panic"),
        ("a b c d e f", "f e d c b a"),
        ("nothing in common", "xyz"),
    ]
    theirs = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    for reference, answer in pairs:
        scores = theirs.score(reference, answer)
        assert metrics.rouge([reference], [answer]) == {
            ours: scores[name].fmeasure for ours, name in metrics.ROUGE.items()
        }


@pytest.mark.parametrize("text", ["größere Tür", "注文が届かない", "заказ не пришёл", "!!!"])
def test_rouge_of_a_text_against_itself_is_one_in_every_script(text):
    assert metrics.rouge([text], [text])["rouge_1"] == 1


def test_a_chinese_answer_that_shares_half_its_characters_scores_in_between():
    assert metrics.rouge(["订单破损"], ["订单丢失"])["rouge_1"] == 0.5


def test_texts_without_words_score_zero_when_they_differ():
    assert metrics.rouge(["!!!"], ["???"])["rouge_l"] == 0


def test_bleu_is_100_for_equal_texts_and_falls_with_each_change():
    references = ["the kettle leaks at the spout", "the lamp flickers every evening now"]
    near = ["the kettle leaks at the lid", "the lamp flickers every evening now"]
    assert metrics.bleu(references, references) == pytest.approx(100)
    assert 50 < metrics.bleu(references, near) < 95
    assert metrics.bleu(references, ["no", "idea"]) < 5


def test_perplexity_is_e_to_the_loss_and_never_raises():
    assert metrics.perplexity(math.log(7)) == pytest.approx(7)
    assert metrics.perplexity(1e6) == math.inf
    assert math.isnan(metrics.perplexity(math.nan))


def test_only_the_metrics_that_were_asked_for_are_measured():
    found, warnings = metrics.text_metrics(["exact_match", "bleu"], ["a b c d"], ["a b c d"])
    assert set(found) == {"exact_match", "bleu"}
    assert warnings == []


def test_a_failing_metric_is_a_warning_and_the_others_are_measured(monkeypatch):
    def broken(references, answers):
        raise OSError("no such file")

    monkeypatch.setitem(metrics.METRICS, "bleu", broken)
    found, warnings = metrics.text_metrics(["bleu", "exact_match", "taste"], ["a"], ["a"])
    assert found == {"exact_match": 1.0}
    assert warnings[0] == "metric bleu failed: OSError: no such file"
    assert "taste" in warnings[1]
    assert "exact_match, rouge, bleu" in warnings[1]


def test_importing_the_module_loads_no_torch_and_no_metric_library():
    code = (
        "import sys, celora.tuning.evaluation.metrics; "
        "print([m for m in ('torch','nltk','sacrebleu') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
