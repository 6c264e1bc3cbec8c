"""Resuming: what shapes a run must be the same, what only computes it may differ and is told."""

import numpy as np
import pytest

from celora.tuning import device
from celora.tuning.protocol import Base, PrepareResult, TrainRequest
from celora.tuning.recipe import Recipe, ResolvedRecipe
from celora.tuning.training import optimizer_check
from celora.tuning.training.resume import HOW, changes, circumstances, fit, run_settings

BASE = Base(source="tiny", kind="folder", name="tiny", revision="r", parameters=1, context_tokens=8, model_type="llama")
RESOLVED = ResolvedRecipe(
    micro_batch=1, accumulation=2, effective_batch=2, learning_rate=0.1, max_length=8, gradient_checkpointing=False,
    optimizer="adamw", compute_dtype="float32",
)  # fmt: skip
FACTS = PrepareResult(
    base=BASE, dataset_sha256="", train_rows=3, eval_rows={"eval": 2}, train_tokens=9, trained_tokens=6, max_length=8,
    template="own", memory_bytes=0, receipt={},
)  # fmt: skip


@pytest.fixture
def request_of(tmp_path):
    """Makes a request whose prepared arrays have the given values."""

    def make(values=(1, 2, 3), held_out=(4, 5), **fields):
        for name, array in (("train", values), ("eval.eval", held_out)):
            for part in ("tokens", "mask", "offsets"):
                np.save(tmp_path / f"{name}.{part}.npy", np.array(array))
        given = {"recipe": Recipe(optimizer="adamw"), "seed": 1, **fields}
        return TrainRequest(
            job="j", attempt=1, cache_dir="/c", base=BASE, prepared_dir=str(tmp_path), out_dir="/o", **given
        )

    return make


def differing(one, other):
    return {name for name in one if one[name] != other[name]}


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"values": (1, 2, 4)}, {"data_sha256"}),
        ({"held_out": (4, 6)}, {"data_sha256"}),
        ({"seed": 2}, {"seed"}),
        ({"base": BASE.model_copy(update={"revision": "s"})}, {"base"}),
        ({"recipe": Recipe(optimizer="auto")}, {"recipe"}),
        ({"out_dir": "/other", "attempt": 3, "resume_from": "/c", "keep_checkpoints": 9}, set()),
    ],
)
def test_a_run_is_another_where_its_data_base_or_seed_is(request_of, change, differs):
    plain = run_settings(request_of(), RESOLVED, FACTS, 10)
    fields = {name: value for name, value in change.items() if name in ("values", "held_out")}
    request = request_of(**fields).model_copy(update={k: v for k, v in change.items() if k not in fields})
    assert differing(plain, run_settings(request, RESOLVED, FACTS, 10)) == differs


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"rank": 4}, False),
        ({"epochs": 5}, False),
        ({"effective_batch": 4}, False),
        ({"micro_batch": 2, "accumulation": 1}, True),
        ({"gradient_checkpointing": True}, True),
        ({"compute_dtype": "bfloat16"}, True),
        ({"save_steps": 3, "save_minutes": 1}, True),
        ({"rules": {"rank": "a rule"}}, True),
    ],
)
def test_a_recipe_may_differ_in_how_it_computes_and_in_nothing_else(request_of, change, same):
    request = request_of()
    one = run_settings(request, RESOLVED, FACTS, 10)
    other = run_settings(request, RESOLVED.model_copy(update=change), FACTS, 10)
    assert (one == other) is same


def test_data_without_held_out_rows_has_a_hash_too(request_of):
    facts = FACTS.model_copy(update={"eval_rows": {}})
    with_rows, without = (run_settings(request_of(), RESOLVED, each, 10) for each in (FACTS, facts))
    assert differing(with_rows, without) == {"data_sha256"}


def test_circumstances_name_the_libraries_the_device_and_the_way_of_computing():
    found = circumstances(RESOLVED, "cpu")
    assert {*HOW, "torch", "device", "threads"} <= set(found)
    assert all(isinstance(value, str) for value in found.values())
    assert changes(found, found) == {}


def test_changes_are_told_from_the_checkpoint_s_side():
    before = {"torch": "1", "peft": "2", "gone": "3"}
    now = {"torch": "1", "peft": "4", "new": "5"}
    assert changes(before, now) == {"peft": ["2", "4"], "gone": ["3", None]}


@pytest.fixture
def notes():
    made = []

    def emit(event, **fields):
        made.append((event, fields))

    emit.made = made
    return emit


def test_a_recipe_that_fits_stays_the_same_object(request_of, notes):
    assert fit(RESOLVED, request_of(), {"device": device.name("cpu")}, notes) is RESOLVED
    assert fit(RESOLVED, request_of(), {}, notes) is RESOLVED
    assert notes.made == []


def test_on_another_device_the_compute_dtype_is_its_own(request_of, notes, monkeypatch):
    monkeypatch.setattr(device, "compute_dtype", lambda _device: "bfloat16")
    assert fit(RESOLVED, request_of(), {}, notes) is RESOLVED, "a run that begins has been resolved here"
    moved = fit(RESOLVED, request_of(), {"device": "another"}, notes)
    assert moved.compute_dtype == "bfloat16"
    assert moved.rules["compute_dtype"].startswith("bfloat16: what this cpu device computes well")
    assert RESOLVED.compute_dtype == "float32"


@pytest.mark.parametrize(("asked", "words"), [("auto", "it is for GPUs"), ("paged_adamw_8bit", "it forgets")])
def test_an_8_bit_optimizer_that_cannot_be_relied_on_is_replaced_and_told(request_of, notes, monkeypatch, asked, words):
    monkeypatch.setattr(optimizer_check, "fault", lambda *_: "it forgets")
    paged = RESOLVED.model_copy(update={"optimizer": "paged_adamw_8bit"})
    found = fit(paged, request_of(recipe=Recipe(optimizer=asked)), {}, notes)
    assert found.optimizer == "adamw"
    assert words in found.rules["optimizer"]
    ((event, fields),) = notes.made
    assert (event, fields["level"], words in fields["message"]) == ("note", "warning", True)


def test_an_8_bit_optimizer_that_was_asked_for_and_works_is_kept(request_of, notes, monkeypatch):
    monkeypatch.setattr(optimizer_check, "fault", lambda *_: None)
    paged = RESOLVED.model_copy(update={"optimizer": "paged_adamw_8bit"})
    assert fit(paged, request_of(recipe=Recipe(optimizer="paged_adamw_8bit")), {}, notes) is paged
