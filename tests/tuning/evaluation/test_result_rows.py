"""The rows of an evaluation as they are written, read back and told apart."""

import json

from celora.tuning.batches.row_losses import RowLosses
from celora.tuning.evaluation import metrics
from celora.tuning.evaluation.measures import measured
from celora.tuning.evaluation.readings import Reading
from celora.tuning.evaluation.result_rows import identity, lines, read

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


def test_rows_are_the_same_rows_when_prompts_and_references_are_in_the_same_order():
    assert identity(made()) == identity(made(wanted=()))
    assert identity(made()) != identity(made()[::-1])


def test_rows_survive_every_mark_that_python_takes_for_the_end_of_a_line():
    found = made()
    for line, mark in zip(found, ("\u2028", "\u2029", "\x85", "\x0b"), strict=True):
        line["prompt"] = line["tuned"] = f"one{mark}two"
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found)
    assert read(text.encode()) == found


def test_rows_with_another_system_text_are_other_rows():
    one, other = made(), made()
    for line in one:
        line["row_hash"] = "brief"
    for line in other:
        line["row_hash"] = "long"
    assert identity(one) != identity(other)


def test_words_are_compared_alone_and_the_whole_beside_them():
    reference = Reading("<think> </think> Lima", "Lima")
    answers = [Reading("Lima", "Lima"), reference, Reading("<think> </think> Rome", "Rome")]
    rows = [{"prompt": "p", "reference": reference.text}] * 3
    losses = {"tuned": RowLosses([1.0] * 3, [2] * 3)}
    found = lines(rows, losses, range(3), {"tuned": answers}, ["rouge"], references=[reference] * 3)
    assert [line["exact_tuned"] for line in found] == [True, True, False]
    assert [line["exact_raw_tuned"] for line in found] == [False, True, False]
    assert [line["rouge_l_tuned"] for line in found] == [1, 1, 0]
    assert [line.get("words_tuned") for line in found] == [None, "Lima", "Rome"]
    assert {line["reference_words"] for line in found} == {"Lima"}
