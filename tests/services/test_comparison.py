"""Two adapters side by side: on rows that both answered, on the same rows of two evaluations, and what is refused."""

import json

import pytest

from celora.errors import SettingsError
from celora.models.ratings import BASE
from celora.models.tables import Job
from celora.services.comparison import Contestant, changed, figures, measured_now, stored
from celora.settings.settings import load_settings
from celora.storage.artifacts import Artifacts
from celora.tuning.batches.row_losses import RowLosses
from celora.tuning.evaluation.measures import METRICS_VERSION
from celora.tuning.evaluation.readings import Reading
from celora.tuning.evaluation.result_rows import lines

ROWS = 20


def right(count):
    return [f"r{i}" if i < count else "wrong" for i in range(ROWS)]


@pytest.fixture
def evaluated(tmp_path):
    """Makes a job whose evaluation lies in the artifacts: the answers of each side to twenty rows."""

    def make(job_id, answers, met=None, revision="r1", rows="p", **settings):
        version = settings.pop("version", METRICS_VERSION)
        folder = tmp_path / job_id
        folder.mkdir()
        asked = [{"prompt": f"{rows}{i}", "reference": f"r{i}", "line": i + 1} for i in range(ROWS)]
        losses = {
            side: RowLosses([1.0 if each[i] == f"r{i}" else 3.0 for i in range(ROWS)], [2] * ROWS)
            for side, each in answers.items()
        }
        given = {side: [Reading.plain(text) for text in each] for side, each in answers.items()}
        references = [Reading.plain(row["reference"]) for row in asked]
        made = lines(asked, losses, range(ROWS), given, ["exact_match"], references=references)
        (folder / "rows.eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in made))
        (folder / "evaluation.json").write_text(json.dumps({"settings": {"max_new_tokens": 8, **settings}}))
        evaluation = {"uri": f"file://{folder}", "metrics_version": version} | ({"champion": met} if met else {})
        job = Job(
            id=job_id, evaluation=evaluation, metrics={"sets": {"eval": {}}},
            base={"name": "tiny", "revision": revision},
        )  # fmt: skip
        return Contestant(job_id, job)

    return make


@pytest.fixture
def artifacts(tmp_path):
    return Artifacts(f"file://{tmp_path}")


def test_an_adapter_and_its_base_answered_together(artifacts, evaluated):
    one = evaluated("one", {"base": right(2), "tuned": right(12)})
    found = stored(artifacts, [Contestant("the base"), one])
    assert (found.labels, found.together, found.notes) == (["the base", "one"], True, [])
    measured = figures(found.sets["eval"], "s0", "s1")
    exact = measured["exact_match"]
    assert (exact["one"], exact["other"], exact["rows"]) == (0.1, 0.6, ROWS)
    assert exact["difference"] == pytest.approx(0.5)
    assert exact["low"] > 0
    assert exact["better"] == "other"
    loss = measured["eval_loss"]
    assert (loss["difference"] < 0, loss["better"]) == (True, "other"), "a smaller loss is better"


def test_a_challenger_that_met_its_champion_answered_together_with_it(artifacts, evaluated):
    champion = Contestant("the champion", Job(id="champion"))
    met = {"name": "bot", "job": "champion", "compared": True}
    second = evaluated("second", {"base": right(0), "tuned": right(8), "champion": right(8)}, met)
    found = stored(artifacts, [champion, second])
    assert (found.labels, found.together) == (["the champion", "second"], True)
    exact = figures(found.sets["eval"], "s0", "s1")["exact_match"]
    assert (exact["one"], exact["other"], exact["better"]) == (0.4, 0.4, None)


def test_a_champion_that_was_named_and_not_measured_is_not_compared(artifacts, evaluated):
    met = {"name": "bot", "job": "champion", "compared": False}
    second = evaluated("second", {"base": right(0), "tuned": right(8)}, met)
    with pytest.raises(SettingsError, match="the champion and second were not evaluated on the same rows") as refused:
        stored(artifacts, [Contestant("the champion", Job(id="champion")), second])
    assert "--run" in refused.value.hint


def test_two_evaluations_of_the_same_rows_are_put_side_by_side_with_a_note(artifacts, evaluated):
    one = evaluated("one", {"base": right(0), "tuned": right(3)})
    two = evaluated("two", {"base": right(1), "tuned": right(9)}, max_new_tokens=16)
    found = stored(artifacts, [one, two, Contestant("the base")])
    assert not found.together
    assert found.notes[0].startswith("they were measured apart")
    assert found.notes[1:] == ["max_new_tokens was not the same: 8, 16"]
    rows = found.sets["eval"]
    values = [sum(bool(line[f"exact_s{i}"]) for line in rows) for i in range(3)]
    assert values == [3, 9, 0], "the base is that of the first"


def test_of_other_bases_the_losses_are_left_out(artifacts, evaluated):
    one = evaluated("one", {"base": right(0), "tuned": right(3)})
    two = evaluated("two", {"base": right(1), "tuned": right(9)}, revision="r2")
    found = stored(artifacts, [one, two])
    assert "their bases differ" in found.notes[-1]
    measured = figures(found.sets["eval"], "s0", "s1")
    assert "exact_match" in measured
    assert "eval_loss" not in measured


def test_evaluations_of_other_rows_are_refused(artifacts, evaluated):
    one = evaluated("one", {"base": right(0), "tuned": right(3)})
    two = evaluated("two", {"base": right(0), "tuned": right(3)}, rows="q")
    with pytest.raises(SettingsError, match="one and two were not evaluated on the same rows"):
        stored(artifacts, [one, two])


def test_a_job_without_an_evaluation_is_refused(artifacts, evaluated):
    one = evaluated("one", {"base": right(0), "tuned": right(3)})
    for pair in ([one, Contestant("two", Job(id="two"))], [Contestant("two", Job(id="two")), one]):
        with pytest.raises(SettingsError, match="were not evaluated on the same rows"):
            stored(artifacts, pair)


def row(one, other, exact=(False, False), rouge=(0.0, 0.0)):
    return {"s0": one, "s1": other, "exact_s0": exact[0], "exact_s1": exact[1], "rouge_l_s0": rouge[0],
            "rouge_l_s1": rouge[1]}  # fmt: skip


def test_changed_rows_are_ordered_by_exact_match_and_then_by_overlap():
    rows = [
        row("same", "same", (True, True), (1.0, 1.0)),
        row("a", "a little better", rouge=(0.1, 0.3)),
        row("a", "much better", rouge=(0.1, 0.9)),
        row("wrong", "right", (False, True), (0.9, 1.0)),
        row("right", "wrong", (True, False), (1.0, 0.2)),
        row("a", "a little worse", rouge=(0.3, 0.1)),
        row("a", None),
        row(None, "b"),
    ]
    better, worse = changed(rows, "s0", "s1")
    assert [line["s1"] for line in better] == ["right", "much better", "a little better"]
    assert [line["s1"] for line in worse] == ["wrong", "a little worse"]


def test_figures_of_rows_without_answers_are_none():
    assert figures([{"row": 0, "s0": None, "s1": None}], "s0", "s1") == {}


def test_adapters_of_two_bases_are_not_measured_in_one_process(home):
    pair = [Contestant(name, Job(id=name, base={"name": name, "revision": name})) for name in ("one", "two")]
    with pytest.raises(SettingsError, match="which loads one base: one on one, two on two"):
        measured_now(load_settings(), pair, lambda _event: None)


def test_a_job_without_an_adapter_is_not_measured(home):
    pair = [Contestant("one", Job(id="one")), Contestant("the base")]
    assert pair[1].key == BASE
    with pytest.raises(SettingsError, match="one has no finished adapter") as refused:
        measured_now(load_settings(), pair, lambda _event: None)
    assert refused.value.hint == "See `celora status one`."


def test_what_an_older_version_measured_is_not_put_beside_new_numbers(artifacts, evaluated):
    old = evaluated("old", {"base": right(2), "tuned": right(12)}, version=METRICS_VERSION - 1)
    new = evaluated("new", {"base": right(2), "tuned": right(12)})
    for contestants in ([Contestant("the base"), old], [new, old]):
        with pytest.raises(SettingsError, match="old was measured by an older version") as refused:
            stored(artifacts, contestants)
        assert "--run" in str(refused.value.hint)
