"""A rival beside the adapter, on one loaded base: each measured as it would be alone."""

import json
import shutil
from pathlib import Path

import pytest

from celora.storage.manifest import write_manifest
from celora.tuning.protocol import EvaluateRequest, HubAccess, Rival
from celora.tuning.recipe import Recipe, ResolvedRecipe

pytestmark = pytest.mark.slow


def recipe(rank=4, **changes):
    plain = Recipe(rank=rank, alpha=8, dropout=0, quantization="none", micro_batch=2, learning_rate=1e-3, **changes)
    more = {"effective_batch": 4, "accumulation": 2, "max_length": 64, "gradient_checkpointing": False}
    return ResolvedRecipe(**{**plain.model_dump(), **more, "optimizer": "adamw", "compute_dtype": "float32"})


@pytest.fixture(scope="module")
def make_adapter(tiny_base, tmp_path_factory):
    """Writes an adapter with random weights; the same seed gives the same one."""
    import torch

    from celora.tuning.adapters import lora
    from celora.tuning.bases import base as bases

    cache = tmp_path_factory.mktemp("cache")

    def make(seed, chosen):
        model, _ = bases.load_model(
            tiny_base, cache, HubAccess(offline=True), quantization="none", compute_dtype="float32", device="cpu",
            emit=lambda *_, **__: None,
        )  # fmt: skip
        model = lora.attach(model, chosen, tiny_base, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data = torch.randn(weight.shape, generator=generator) * 0.3
        folder = tmp_path_factory.mktemp(f"adapter-{seed}") / "adapter"
        folder.mkdir()
        lora.write_adapter(model, folder)
        write_manifest(folder)
        return folder

    return make


@pytest.fixture
def evaluated(tiny_base, tiny_prepared, tmp_path, tmp_path_factory):
    def run(folder, chosen=None, emit=lambda *_, **__: None, **changes):
        from celora.tuning.evaluation.evaluate import evaluate

        out = tmp_path / f"evaluation-{len(list(tmp_path.iterdir()))}"
        fields = {
            "job": "job", "attempt": 1, "cache_dir": str(tmp_path_factory.getbasetemp() / "cache"),
            "hub": HubAccess(offline=True), "base": tiny_base, "prepared_dir": str(tiny_prepared),
            "adapter_dir": str(folder), "recipe": chosen or recipe(), "metrics": ["exact_match", "rouge", "bleu"],
            "max_new_tokens": 8, "out_dir": str(out), **changes,
        }  # fmt: skip
        result = evaluate(EvaluateRequest(**fields), emit)
        lines = [json.loads(line) for line in (out / "rows.eval.jsonl").read_text().splitlines()]
        return result, lines

    return run


def test_a_rival_is_measured_as_it_would_be_alone(make_adapter, evaluated):
    ours, theirs = make_adapter(5, recipe()), make_adapter(6, recipe(rank=8))
    together, rows = evaluated(ours, rivals=[Rival(side="champion", adapter_dir=str(theirs))])
    alone, _ = evaluated(ours)
    theirs_alone, theirs_rows = evaluated(theirs, recipe(rank=8))
    assert set(together.metrics) == {"base", "tuned", "champion", "sets"}
    for side, expected in (
        ("base", alone.metrics["base"]), ("tuned", alone.metrics["tuned"]), ("champion", theirs_alone.metrics["tuned"]),
    ):  # fmt: skip
        for name in ("eval_loss", "exact_match", "rouge_l", "bleu"):
            assert together.metrics[side][name] == pytest.approx(expected[name], rel=1e-6), (side, name)
    assert [row["champion"] for row in rows] == [row["tuned"] for row in theirs_rows]
    assert [row["loss_champion"] for row in rows] == pytest.approx([row["loss_tuned"] for row in theirs_rows], rel=1e-6)
    assert together.metrics["champion"]["eval_loss"] != pytest.approx(together.metrics["tuned"]["eval_loss"], rel=1e-3)
    assert together.warnings == alone.warnings
    assert together.samples[0]["champion"] == rows[0]["champion"]


def test_a_rival_that_cannot_be_loaded_is_a_warning_and_no_failure(make_adapter, evaluated, tmp_path, capfd):
    ours, theirs = make_adapter(5, recipe()), make_adapter(6, recipe())
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken"
    shutil.copytree(theirs, broken)
    (broken / "adapter_model.safetensors").write_bytes(b"cut")
    for folder in (empty, broken):
        result, rows = evaluated(ours, rivals=[Rival(side="champion", adapter_dir=str(folder))])
        assert "champion" not in result.metrics
        assert any("champion could not be loaded beside it" in warning for warning in result.warnings)
        assert result.metrics["tuned"]["eval_loss"] > 0
        assert "champion" not in rows[0]
    capfd.readouterr()


def test_a_whole_set_is_answered_although_max_rows_is_small(make_adapter, evaluated):
    ours = make_adapter(5, recipe())
    _, limited = evaluated(ours, max_rows=2)
    _, whole = evaluated(ours, max_rows=2, whole_sets=["eval"])
    _, also = evaluated(ours, metrics=[], whole_sets=["eval"])
    assert [sum(row["tuned"] is not None for row in rows) for rows in (limited, whole, also)] == [2, 6, 6]
    assert Path(ours).is_dir()
