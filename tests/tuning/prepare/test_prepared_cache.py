"""Prepared data is made once: what is reused, what is not, and what happens to a damaged entry."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from celora.storage.manifest import verify_manifest
from celora.tuning.batches.prepared_set import PreparedSet
from celora.tuning.prepare import prepared_cache
from celora.tuning.prepare.prepare import load_result, load_settings, prepare
from celora.tuning.protocol import PrepareRequest
from celora.tuning.recipe import Recipe
from celora.tuning.semantics import SEMANTICS

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
REUSED = "the prepared data of an earlier run is reused: same rows, base and settings"


@pytest.fixture(scope="module")
def base(bare_base):
    return bare_base(TEMPLATE)


@pytest.fixture
def run(tmp_path, base):
    """Prepare rows; the result, and what it told."""

    def run(rows=30, *, out="out", name="train.jsonl", recipe=None, **fields):
        path = tmp_path / name
        words = [{"prompt": f"how many is {n}?", "completion": f"it is {n}"} for n in range(rows)]
        path.write_text("".join(json.dumps(row) + "\n" for row in words))
        notes = []
        request = {
            "job": out, "attempt": 1, "cache_dir": str(tmp_path / "cache"), "base_model": str(base),
            "dataset": str(path), "recipe": Recipe(**(recipe or {})), "seed": 1, "out_dir": str(tmp_path / out),
        } | fields  # fmt: skip
        result = prepare(PrepareRequest(**request), lambda _, **told: notes.append(told.get("message")))
        run.reused = REUSED in notes
        run.notes = [note for note in notes if note]
        return result

    run.out = tmp_path
    run.entries = lambda: sorted(path for path in (tmp_path / "cache" / "prepared").iterdir() if path.is_dir())
    return run


def same(folder, other):
    return all(
        np.array_equal(getattr(PreparedSet.load(folder, name), part), getattr(PreparedSet.load(other, name), part))
        for name in ("train", "eval")
        for part in ("tokens", "mask", "offsets")
    )


def test_the_second_run_takes_what_the_first_made_and_says_so(run):
    first = run(out="first")
    assert not run.reused
    assert first.receipt["reused"] is False
    second = run(out="second", job="another")
    assert run.reused
    assert second.receipt["reused"] is True
    assert load_result(run.out / "second") == second
    assert verify_manifest(run.out / "second")["job"] == "another"
    assert same(run.out / "first", run.out / "second")
    assert second.model_copy(update={"receipt": {}}) == first.model_copy(update={"receipt": {}})
    differs = {name for name in first.receipt if first.receipt[name] != second.receipt[name]}
    assert differs == {"reused"}


def test_a_reuse_is_warned_of_its_own_settings_and_not_of_the_first_runs(run):
    def of_the_run(result):
        return [warned["message"] for warned in result.receipt["warnings"] if warned["name"] == "settings"]

    first = run(out="first", recipe={"warmup_steps": 5000})
    assert [message.split(" is not below")[0] for message in of_the_run(first)] == ["warmup_steps 5000"]
    second = run(out="second", recipe={"early_stopping_patience": 9})
    assert run.reused
    assert [message.split(" can not")[0] for message in of_the_run(second)] == ["early_stopping_patience 9"]
    assert len(second.warnings) == len(first.warnings)
    assert not of_the_run(run(out="third"))


def test_data_that_celora_made_something_else_of_is_not_reused(run, monkeypatch):
    first = run(out="first")
    assert first.receipt["semantics"] == SEMANTICS
    for part in SEMANTICS:
        monkeypatch.setitem(SEMANTICS, part, 0)
        run(out=f"after-{part}")
        assert not run.reused


def test_another_way_to_train_reuses_the_tokens_and_estimates_anew(run):
    first = run(out="first", recipe={"rank": 8})
    second = run(out="second", recipe={"rank": 256, "learning_rate": 1e-5})
    assert run.reused
    assert second.memory_bytes > first.memory_bytes
    assert load_settings(run.out / "second")["recipe"]["rank"] == 256


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 31},
        {"recipe": {"max_length": 60}},
        {"recipe": {"completion_only": False}},
        {"recipe": {"template": "alpaca"}},
        {"eval_fraction": 0.5},
        {"seed": 2},
        {"duplicates": "keep"},
    ],
    ids=str,
)
def test_what_changes_a_token_is_prepared_anew(run, change):
    run(out="first")
    run(out="second", **change)
    assert not run.reused
    assert len(run.entries()) == 2


def test_a_seed_matters_only_where_it_splits(run):
    run(out="first", eval_fraction=0, seed=1)
    run(out="second", eval_fraction=0, seed=2)
    assert run.reused


def test_the_files_name_is_told_and_shapes_nothing(run):
    run(out="first", name="one.jsonl")
    second = run(out="second", name="two.jsonl")
    assert run.reused
    assert second.receipt["files"][0]["name"] == "two.jsonl"


def test_another_tokenizer_is_another_entry(run, base, tmp_path):
    run(out="first")
    path = base / "tokenizer_config.json"
    before = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(before) | {"model_max_length": 77}))
        run(out="second")
        assert not run.reused
    finally:
        path.write_text(before)


def test_a_damaged_entry_is_made_anew(run):
    run(out="first")
    tokens = run.entries()[0] / "train.tokens.npy"
    content = bytearray(tokens.read_bytes())
    content[-1] ^= 1
    tokens.unlink()
    tokens.write_bytes(content)
    run(out="second")
    assert not run.reused
    assert any("damaged" in note for note in run.notes)
    run(out="third")
    assert run.reused
    assert same(run.out / "second", run.out / "third")


def test_changing_what_a_job_prepared_changes_no_fact_of_the_entry(run):
    run(out="first")
    (run.out / "first" / "prepared.json").write_text("{}")
    second = run(out="second")
    assert run.reused
    assert load_result(run.out / "second") == second


def test_a_full_cache_costs_the_reuse_alone(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared_cache, "_place", full)
    run(out="first")
    assert any("can't be kept for reuse: No space left" in note for note in run.notes)
    assert (run.out / "first" / "prepared.json").is_file()
    assert run.entries() == []


def test_a_disk_that_links_nothing_gets_copies(run, monkeypatch):
    from pathlib import Path

    def refused(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    run(out="first")
    run(out="second")
    assert run.reused
    assert same(run.out / "first", run.out / "second")


def test_several_at_once_leave_one_whole_entry(run, base, tmp_path):
    run(out="first")
    entry = run.entries()[0]
    made = prepared_cache.Entry(entry)
    kept = [prepared_cache.Entry(entry.with_name("another")) for _ in range(8)]
    threads = [threading.Thread(target=one.keep, args=(tmp_path / "first", print)) for one in kept]
    taken = [tmp_path / f"taken-{number}" for number in range(4)]
    for folder in taken:
        folder.mkdir()
    threads += [threading.Thread(target=made.take, args=(folder, print)) for folder in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in run.entries()] == sorted([entry.name, "another"])
    verify_manifest(entry.with_name("another"))
    assert all(same(folder, tmp_path / "first") for folder in taken)


def test_sweep_removes_what_nobody_used_for_long_and_what_was_left(run, tmp_path):
    run(out="first")
    entry = run.entries()[0]
    left = entry.with_name(".left-by-a-killed-process")
    left.mkdir()
    (left / "part").write_text("x")
    assert prepared_cache.sweep(tmp_path / "cache", 14) == 0
    for folder in (entry, left):
        os.utime(folder, (time.time() - 15 * 86400,) * 2)
    run(out="second")
    assert run.reused
    assert prepared_cache.sweep(tmp_path / "cache", 14) == 1  # the byte that was left
    os.utime(entry, (time.time() - 15 * 86400,) * 2)
    size = sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
    assert prepared_cache.sweep(tmp_path / "cache", 14) == size
    assert run.entries() == []
    assert prepared_cache.sweep(tmp_path / "nothing here", 14) == 0


def test_sweep_removes_the_longest_unused_above_a_size(tmp_path):
    for number in range(4):
        folder = tmp_path / "prepared" / f"entry-{number}"
        folder.mkdir(parents=True)
        (folder / "rows").write_bytes(b"x" * 100)
        os.utime(folder, (time.time() - number * 3600,) * 2)
    assert prepared_cache.sweep(tmp_path, 14, 0) == 0
    assert prepared_cache.sweep(tmp_path, 14, 250) == 200
    assert sorted(path.name for path in (tmp_path / "prepared").glob("entry-*")) == ["entry-0", "entry-1"]


def test_reuse_loads_no_tokenizer(run, base, tmp_path):
    run(out="first")
    request = PrepareRequest(
        job="j", attempt=1, cache_dir=str(tmp_path / "cache"), base_model=str(base), recipe=Recipe(), seed=1,
        dataset=str(tmp_path / "train.jsonl"), out_dir=str(tmp_path / "second"),
    )  # fmt: skip
    code = (
        "import sys; from celora.tuning.prepare.prepare import prepare\n"
        "from celora.tuning.protocol import PrepareRequest\n"
        "result = prepare(PrepareRequest.model_validate_json(sys.argv[1]), lambda *_, **__: None)\n"
        "print(result.receipt['reused'], {'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, request.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "set()"]
