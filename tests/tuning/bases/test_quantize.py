"""NF4 on tiny random models of five families; everything here runs the real bitsandbytes kernels."""

import json
from pathlib import Path

import pytest

from celora.errors import BadBaseError, BaseModelError
from celora.tuning.bases import base
from celora.tuning.bases.cache import copies
from celora.tuning.protocol import HubAccess

TINY = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


@pytest.fixture(scope="module")
def model_of(make_base):
    """A tiny random base of a family."""
    import transformers

    def make(family, **changes):
        return make_base(getattr(transformers, f"{family}Config")(**{**TINY, **changes}), family.lower())

    return make


def load(found, cache, emit, *, quantization="nf4", compute_dtype="float32"):
    return base.load_model(
        found,
        cache,
        HubAccess(offline=True),
        quantization=quantization,
        compute_dtype=compute_dtype,
        device="cpu",
        emit=emit,
    )


def tokens():
    import torch

    return torch.arange(3, 23).reshape(2, 10)


def kinds(model):
    return {
        name: type(module).__name__
        for name, module in model.named_modules()
        if type(module).__name__.startswith("Linear")
    }


@pytest.mark.parametrize(
    ("family", "changes", "unquantized"),
    [
        ("Llama", {}, []),
        ("Llama", {"intermediate_size": 172}, ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
        ("Qwen2", {"num_key_value_heads": 1}, ["self_attn.k_proj", "self_attn.v_proj"]),
        ("Mistral", {}, []),
        ("Gemma", {"head_dim": 24}, ["self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]),
        ("Phi3", {"intermediate_size": 144}, ["mlp.down_proj"]),
    ],
)
def test_each_family_loads_in_nf4_and_tells_which_layers_stay_unquantized(  # noqa: PLR0917  (fixtures)
    model_of, tmp_path, recorder, family, changes, unquantized
):
    import torch

    model, named = load(model_of(family, **changes), tmp_path, recorder())
    expected = {f"model.layers.{layer}.{name}" for layer in range(2) for name in unquantized}
    assert set(named) == expected
    assert {name for name, kind in kinds(model).items() if kind == "Linear"} == expected | {"lm_head"}
    assert "Linear4bit" in kinds(model).values()
    model.eval()
    with torch.no_grad():
        assert torch.isfinite(model(tokens()).logits).all()


def test_conv1d_layers_are_quantized_where_their_sides_fit_and_named_where_they_do_not(make_base, tmp_path, recorder):
    from transformers import GPT2Config

    sizes = {"vocab_size": 96, "n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 64, "n_inner": 80}
    model, named = load(make_base(GPT2Config(**sizes), "gpt2"), tmp_path, recorder())
    assert named == ["transformer.h.0.mlp.c_fc", "transformer.h.0.mlp.c_proj"]
    assert kinds(model)["transformer.h.0.attn.c_attn"] == "Linear4bit"


def test_the_experts_of_a_mixture_are_named_with_their_size(make_base, tmp_path, recorder):
    from transformers import Qwen3MoeConfig

    mixture = TINY | {"num_hidden_layers": 1, "moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2}
    _, named = load(make_base(Qwen3MoeConfig(**mixture, head_dim=16), "mixture"), tmp_path, recorder())
    told = {name.split(" ")[0]: name.split(" ", 1)[1] for name in named if ".experts" in name}
    assert told == {
        "model.layers.0.mlp.experts.gate_up_proj": f"({4 * 128 * 64 * 4 / 2**30:.3g} GiB)",
        "model.layers.0.mlp.experts.down_proj": f"({4 * 64 * 64 * 4 / 2**30:.3g} GiB)",
    }


def test_the_stored_copy_equals_a_fresh_quantization_to_the_bit_and_is_made_once(model_of, tmp_path, recorder):
    import torch

    from celora.tuning.bases import quantize

    found, emit = model_of("Llama"), recorder()
    head, skipped, _ = quantize._plan(Path(found.source), code=False)
    fresh = quantize._from_folder(
        Path(found.source), "float32", "cpu", code=False, quantization=quantize._nf4("float32", [*head, *skipped])
    )
    first, _ = load(found, tmp_path, emit)
    again, _ = load(found, tmp_path, emit)
    phases = [fields["phase"] for fields in emit.of("phase")]
    assert [phase.split()[0] for phase in phases] == ["quantizing", "loading", "loading"]
    for model in (first, again):
        ours, theirs = model.state_dict(), fresh.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        with torch.no_grad():
            assert torch.equal(model.eval()(tokens()).logits, fresh.eval()(tokens()).logits)


def test_each_compute_dtype_has_its_own_copy_and_the_list_shows_them(model_of, tmp_path, recorder):
    found = model_of("Llama")
    for compute_dtype in ("float32", "bfloat16"):
        load(found, tmp_path, recorder(), compute_dtype=compute_dtype)
    listed = copies(tmp_path)
    assert {(copy.name, copy.revisions) for copy in listed} == {(found.name, (found.revision,))}
    settings = [json.loads((copy.path / "manifest.json").read_text())["settings"] for copy in listed]
    assert sorted(each["compute_dtype"] for each in settings) == ["bfloat16", "float32"]


def test_an_evaluation_leaves_the_weights_and_the_gradients_of_training_as_they_were(model_of, tmp_path, recorder):
    # bitsandbytes' packed CPU kernel (AVX512-BF16 machines) would lose the gradient here without a word.
    import bitsandbytes as bnb
    import torch

    model, _ = load(model_of("Llama"), tmp_path, recorder())
    layer = model.model.layers[0].mlp.up_proj
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    model.eval()
    with torch.no_grad():
        model(tokens())
    model.train()
    rows = torch.randn(3, 64, requires_grad=True)
    out = layer(rows)
    out.sum().backward()
    assert torch.equal(out, rows @ weight.T)
    torch.testing.assert_close(rows.grad, torch.ones(3, 128) @ weight)
    after = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert torch.equal(after, weight)


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_norms_and_only_norms_are_fp32_and_what_they_hand_on_is_not(model_of, tmp_path, recorder, quantization):
    import torch

    model, _ = load(model_of("Qwen2"), tmp_path, recorder(), quantization=quantization, compute_dtype="bfloat16")
    dtypes = {name: weight.dtype for name, weight in model.named_parameters() if weight.dtype != torch.uint8}
    assert {name for name, dtype in dtypes.items() if dtype == torch.float32} == {
        name for name in dtypes if "norm" in name
    }
    assert {dtype for name, dtype in dtypes.items() if "norm" not in name} == {torch.bfloat16}
    with torch.no_grad():
        assert model.eval()(tokens()).logits.dtype == torch.bfloat16


def test_without_quantization_the_weights_are_the_folders_own(model_of, tmp_path, recorder):
    import torch
    from safetensors.torch import load_file

    found = model_of("Mistral")
    model, named = load(found, tmp_path, recorder(), quantization="none")
    saved = load_file(Path(found.source) / "model.safetensors")
    assert named == []
    assert all(torch.equal(model.state_dict()[name], saved[name]) for name in saved)
    assert copies(tmp_path) == []


def test_missing_weights_are_refused_instead_of_being_filled_with_noise(model_of, tmp_path, recorder):
    from safetensors.torch import load_file, save_file

    found = model_of("Llama")
    path = Path(found.source) / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    found = base.resolve(found.source, None, tmp_path, HubAccess(), recorder())
    for quantization in ("none", "nf4"):
        with pytest.raises(BaseModelError, match=r"lack the weights model\.layers\.1\.mlp\.up_proj\.weight"):
            load(found, tmp_path, recorder(), quantization=quantization)
    assert copies(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [({"intermediate_size": 64}, "other shapes"), ({"model_type": "no_such_model"}, "can't be loaded")],
)
def test_a_configuration_that_does_not_fit_the_weights_is_one_sentence(model_of, tmp_path, recorder, change, message):
    found = model_of("Llama")
    path = Path(found.source) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    found = base.resolve(found.source, None, tmp_path, HubAccess(), recorder())
    with pytest.raises(BaseModelError, match=message):
        load(found, tmp_path, recorder(), quantization="none")


def test_a_configuration_that_transformers_refuses_is_the_bases_fault(tmp_path):
    sizes = {"hidden_size": 16, "num_attention_heads": 3, "num_hidden_layers": 1, "vocab_size": 8}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **sizes}))
    from celora.tuning.bases import quantize

    with pytest.raises(BadBaseError, match=r"config\.json can't be read"):
        quantize.empty_model(tmp_path, code=False)
