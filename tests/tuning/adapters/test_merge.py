import json
import subprocess
import sys
from pathlib import Path

import pytest

from celora.errors import StorageError, VerificationError
from celora.storage.manifest import verify_manifest
from celora.tuning.protocol import HubAccess, MergeRequest


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def adapter(tiny_base, tmp_path_factory, cache):
    """An adapter of random weights on the tiny base."""
    import torch

    from celora.tuning.adapters import lora
    from celora.tuning.bases.base import load_model
    from celora.tuning.recipe import ResolvedRecipe

    recipe = ResolvedRecipe(
        rank=4, alpha=8, dropout=0, quantization="none", micro_batch=2, accumulation=1, effective_batch=2,
        learning_rate=1e-3, max_length=64, gradient_checkpointing=False, optimizer="adamw", compute_dtype="float32",
    )  # fmt: skip
    model, _ = load_model(
        tiny_base, cache, HubAccess(offline=True), quantization="none", compute_dtype="float32", device="cpu",
        emit=lambda *_, **__: None,
    )  # fmt: skip
    model = lora.attach(model, recipe, tiny_base, seed=3)
    generator = torch.Generator().manual_seed(5)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    folder = tmp_path_factory.mktemp("run") / "adapter"
    folder.mkdir()
    lora.write_adapter(model, folder)
    return folder


@pytest.fixture
def merged(tiny_base, adapter, cache, tmp_path):
    from celora.tuning.adapters.merge import merge

    def run(**changes):
        fields = {
            "job": "job", "attempt": 1, "cache_dir": str(cache), "hub": HubAccess(offline=True), "threads": 1,
            "base": tiny_base, "adapter_dir": str(adapter), "out_dir": str(tmp_path / "out" / "model"), **changes,
        }  # fmt: skip
        return merge(MergeRequest(**fields), lambda *_, **__: None), Path(fields["out_dir"])

    return run


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_merged_model_is_whole_weights_that_answer_like_base_and_adapter(merged, dtype):
    from safetensors.torch import load_file

    result, folder = merged(dtype=dtype)
    assert verify_manifest(folder)["kind"] == "merged"
    weights = load_file(folder / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {f"torch.{dtype}"}
    assert not any("lora" in name for name in weights)
    assert result.logits_apart < result.adapter_effect / 2
    assert json.loads((folder / "celora.json").read_text())["merged"]["dtype"] == dtype
    assert (folder / "README.md").is_file()


def test_each_merged_weight_is_the_bases_plus_scaled_b_times_a(merged, adapter, tiny_base):
    import torch
    from safetensors.torch import load_file

    _, folder = merged(dtype="float32")
    before, after = load_file(Path(tiny_base.source) / "model.safetensors"), load_file(folder / "model.safetensors")
    low = load_file(adapter / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    changed = 0
    for name, weight in before.items():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        added = 0
        if f"{key}.lora_A.weight" in low:
            changed += 1
            added = 8 / 4 * low[f"{key}.lora_B.weight"] @ low[f"{key}.lora_A.weight"]
        torch.testing.assert_close(after[name], weight + added, rtol=1e-5, atol=1e-6)
    assert changed == 14


@pytest.mark.slow
def test_transformers_alone_loads_and_answers_with_it(merged):
    _, folder = merged(dtype="float32")
    code = (
        "import sys\n"
        "from transformers import pipeline\n"
        f"chat = pipeline('text-generation', model={str(folder)!r})\n"
        "assert chat('w5 w6', max_new_tokens=4)[0]['generated_text'].startswith('w5 w6')\n"
        "assert not {'peft', 'celora'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


def test_a_merged_model_that_answers_otherwise_is_not_written(merged, monkeypatch, tmp_path):
    from peft.tuners.lora import LoraModel

    monkeypatch.setattr(LoraModel, "merge_and_unload", lambda self, **_: self.unload())  # forgets the adapter
    with pytest.raises(VerificationError, match="does not answer like base and adapter"):
        merged(dtype="float32")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_adapter_that_drowns_in_the_rounding_is_a_warning():
    import torch

    from celora.tuning.adapters.merge import _compared

    bare = torch.tensor([1.0, 10.0])
    result = _compared(bare, bare + 1e-3, bare, "bfloat16")
    assert "much of it is lost" in result.warnings[0]
    assert _compared(bare + 1, bare + 1, bare, "bfloat16").warnings == []


def test_a_folder_without_an_adapter_is_refused(merged, tmp_path):
    with pytest.raises(StorageError, match="is no adapter"):
        merged(adapter_dir=str(tmp_path))
