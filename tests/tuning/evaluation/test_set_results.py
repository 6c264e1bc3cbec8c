import json

import pytest

from celora.tuning.batches.row_losses import RowLosses
from celora.tuning.evaluation.generate import Answers
from celora.tuning.evaluation.readings import Reading
from celora.tuning.evaluation.set_results import (
    FirstRows,
    SetResult,
    set_lines,
    set_metrics,
    set_samples,
    write_results,
)
from celora.tuning.protocol import EvaluateResult

ROWS = [{"prompt": f"p{number}", "reference": f"r{number}", "line": number} for number in range(4)]


@pytest.fixture
def found():
    """A set of four rows, two of them answered: the base has one right, the tuned side both."""
    losses = {
        "base": RowLosses([4.0, 6.0, 2.0, 4.0], [2, 2, 1, 3]),
        "tuned": RowLosses([1.0, 1.0, 1.0, 1.0], [2, 2, 1, 3]),
    }
    texts = {"base": ["r1", "no"], "tuned": ["r1", "r3"]}
    return SetResult(
        "eval", ROWS, [1, 3], losses,
        answers={side: Answers(made, tokens=8, seconds=2.0) for side, made in texts.items()},
        readings={side: [Reading.plain(text) for text in made] for side, made in texts.items()},
        references=[Reading.plain("r1"), Reading.plain("r3")],
    )  # fmt: skip


def test_a_side_is_measured_over_all_rows_in_loss_and_over_the_answered_ones_in_words(found):
    values = set_metrics(found, ["exact_match"], warnings := [])
    assert (values["rows"], values["answered"], warnings) == (4, 2, [])
    assert values["base"]["eval_loss"] == pytest.approx(16 / 8)
    assert values["tuned"]["eval_loss"] == pytest.approx(4 / 8)
    assert (values["base"]["exact_match"], values["tuned"]["exact_match"]) == (0.5, 1.0)
    assert values["tuned"]["tokens_per_s"] == 4.0


def test_a_set_without_answers_has_losses_alone(found):
    found.answers, found.answered, found.readings, found.references = {}, [], {}, []
    assert set(set_metrics(found, ["exact_match"], [])["base"]) == {"eval_loss", "perplexity"}
    assert set_samples(found) == []
    assert [line["tuned"] for line in set_lines(found, [])] == [None] * 4


def test_samples_are_the_first_answers_with_their_prompts(found):
    assert set_samples(found)[1] == {"set": "eval", "prompt": "p3", "reference": "r3", "base": "no", "tuned": "r3"}


def test_the_folder_holds_a_line_a_row_and_the_settings(found, tmp_path):
    out = tmp_path / "evaluation"
    result = EvaluateResult(
        metrics={}, samples=[], checks=[], servable={}, metrics_version=3, unquantized_layers=[], warnings=[]
    )
    write_results(out, result, [found], ["exact_match"], {"decoding": "greedy"})
    lines = [json.loads(line) for line in (out / "rows.eval.jsonl").read_text().splitlines()]
    assert [line["exact_tuned"] for line in lines] == [None, True, None, True]
    assert json.loads((out / "evaluation.json").read_text())["settings"] == {"decoding": "greedy"}
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation"]


def test_the_first_rows_are_no_copy():
    assert [FirstRows(ROWS, limit)[0] for limit in (1, 9)] == [ROWS[0]] * 2
    assert [len(FirstRows(ROWS, limit)) for limit in (1, 9)] == [1, 4]
