"""What a method takes of preference rows, and what the receipt says about them."""

from pathlib import Path

import numpy as np
import pytest

from celora.errors import DataError
from celora.tuning.batches.prepared_set import PreparedSet
from celora.tuning.prepare import preferences
from celora.tuning.protocol import PrepareRequest
from celora.tuning.recipe import Recipe
from celora.tuning.rows.data_file import DataFile


def data(**facts):
    return DataFile(path=Path("rows.jsonl"), sha256="", size_bytes=0, **{"good": 2, "trains": False, **facts})


def request(op="check", **recipe):
    return PrepareRequest(
        op=op, job="j", attempt=1, cache_dir="/c", base_model="b", dataset="d", recipe=Recipe(**recipe), seed=0,
        out_dir="/o",
    )  # fmt: skip


def rows(wanted, unwanted, tokens=(2, 2)):
    lengths = [tokens[0]] * wanted + [tokens[1]] * unwanted
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    mask = np.ones(offsets[-1], dtype=np.uint8)
    labels = np.array([1] * wanted + [0] * unwanted, dtype=np.uint8)
    return PreparedSet("train", mask.astype(np.int32), mask, offsets, labels)


@pytest.mark.parametrize(("name", "method"), [("preference", "dpo"), ("openai-preference", "dpo"), ("unpaired", "kto")])
def test_a_check_takes_the_usual_method_of_the_rows(name, method):
    files = {"train": data(format=name)}
    assert preferences.with_method(request(), files).recipe.method == method
    assert preferences.with_method(request(op="prepare"), files).recipe.method == "sft"
    assert preferences.with_method(request(method="orpo"), files).recipe.method == "orpo"


def test_rows_of_two_methods_get_none():
    files = {"train": data(format="preference"), "eval": data(format="unpaired")}
    assert preferences.with_method(request(), files).recipe.method == "sft"


def test_a_choice_of_rows_covers_each_of_their_answers():
    chosen = np.array([True, False])
    assert preferences.of_each_answer(chosen, data(pairs=range(4))).tolist() == [True, True, False, False]
    assert preferences.of_each_answer(chosen, data(pairs=range(2))).tolist() == [True, False]
    assert preferences.of_each_answer(chosen, data(trains=True)) is chosen


def test_only_kto_needs_both_labels():
    files = {"train": data(format="unpaired")}
    files["train"].labels[True] = 2
    preferences.require_labels("dpo", files)
    with pytest.raises(DataError, match="have the label true"):
        preferences.require_labels("kto", files)


def names(method, train):
    found = preferences.facts(method, {"train": train})["train"]
    return [warned.name for warned in preferences.warnings(request(method=method), method, {"train": found})]


def test_the_receipt_counts_labels_and_names_a_bias_of_length():
    assert preferences.facts("kto", {"train": rows(3, 1)})["train"] == {
        "wanted": 3, "unwanted": 1, "wanted_tokens": 2.0, "unwanted_tokens": 2.0,
    }  # fmt: skip
    assert names("dpo", rows(10, 10, tokens=(2, 9))) == ["length_bias"]
    assert names("orpo", rows(10, 10)) == ["experimental"]
    assert names("kto", rows(10, 10)) == []


def test_held_out_answers_of_one_label_are_named():
    found = preferences.facts("kto", {"train": rows(3, 1), "eval": rows(2, 0), "more": rows(1, 1)})
    (warned,) = preferences.warnings(request(method="kto"), "kto", found)
    assert warned.name == "one_label"
    assert warned.message.startswith("the held-out set eval has wanted answers alone (2)")


@pytest.mark.parametrize(
    ("wanted", "unwanted", "weights", "said"),
    [
        (30, 10, {}, "undesirable_weight: 3 would"),
        (10, 30, {"desirable_weight": 2.0}, "desirable_weight: 3 would"),
        (30, 10, {"undesirable_weight": 3.0}, None),
        (11, 10, {}, None),
    ],
)
def test_a_weight_is_proposed_that_balances_the_labels(wanted, unwanted, weights, said):
    found = list(preferences.balance_warnings(Recipe(method="kto", **weights), rows(wanted, unwanted)))
    assert said is None if not found else said in found[0]
