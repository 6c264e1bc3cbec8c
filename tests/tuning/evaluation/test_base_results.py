"""The base's side of an evaluation, kept for the next adapter on the same rows."""

import os
import time

import pytest

from celora.tuning.batches.row_losses import RowLosses
from celora.tuning.evaluation.base_results import DAY_S, FOLDER, BaseResult, BaseResults, key_of, sweep
from celora.tuning.evaluation.generate import Answers

RESULT = BaseResult(RowLosses([1.5, 0.1], [3, 2], [0, 2]), Answers(["grün", ""], 7, 0.25, 1))


def test_what_was_written_is_read_to_the_bit(tmp_path):
    kept = BaseResults(tmp_path)
    assert kept.read("k") is None
    kept.write("k", RESULT)
    assert kept.read("k") == RESULT
    kept.write("k", BaseResult(RESULT.losses, None))
    assert kept.read("k").answers is None
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["k.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"losses": {}, "answers": null}', '{"losses": 1, "answers": 2}']
)
def test_an_entry_that_cannot_be_read_is_none(tmp_path, text):
    BaseResults(tmp_path).write("k", RESULT)
    (tmp_path / FOLDER / "k.json").write_text(text)
    assert BaseResults(tmp_path).read("k") is None


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path):
    (tmp_path / FOLDER).write_text("no folder")
    BaseResults(tmp_path).write("k", RESULT)
    assert BaseResults(tmp_path).read("k") is None


def test_the_key_changes_with_each_fact_and_each_file(tmp_path):
    rows = tmp_path / "rows"
    rows.write_text("1")
    keys = {key_of({"dtype": "float32"}, [rows]), key_of({"dtype": "bfloat16"}, [rows]), key_of({}, [rows])}
    assert key_of({"dtype": "float32"}, [rows, tmp_path / "none"]) in keys
    rows.write_text("2")
    assert len(keys | {key_of({"dtype": "float32"}, [rows])}) == 4


def test_entries_that_nobody_used_for_days_are_swept_and_a_use_keeps_one(tmp_path):
    kept = BaseResults(tmp_path)
    for key in ("old", "used"):
        kept.write(key, RESULT)
        os.utime(tmp_path / FOLDER / f"{key}.json", (0, time.time() - 15 * DAY_S))
    assert kept.read("used") == RESULT
    assert sweep(tmp_path, 14) > 0
    assert (kept.read("old"), kept.read("used")) == (None, RESULT)
    assert sweep(tmp_path / "nowhere", 14) == 0
