import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from celora.errors import SettingsError, TrainingError
from celora.tuning.adapters import lora
from celora.tuning.adapters.targets import Targets, resolve_targets
from celora.tuning.protocol import Base
from celora.tuning.recipe import ResolvedRecipe

torch.set_num_threads(1)

SEPARATE = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
FUSED = ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]
SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


@pytest.fixture
def recipe():
    def make(**fields):
        return ResolvedRecipe(
            **{
                "micro_batch": 1,
                "accumulation": 1,
                "effective_batch": 1,
                "learning_rate": 1e-3,
                "max_length": 8,
                "gradient_checkpointing": False,
                "optimizer": "adamw",
                "compute_dtype": "float32",
                "rank": 4,
                "alpha": 8,
                **fields,
            }
        )

    return make


@pytest.fixture
def base():
    return Base(
        source="acme/tiny",
        kind="hub",
        name="acme/tiny",
        revision="c0ffee",
        parameters=1,
        context_tokens=64,
        model_type="llama",
    )


@pytest.fixture
def llama():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    model.name_or_path = "/somewhere/in/a/cache"
    return model


@pytest.mark.parametrize(
    ("preset", "existing", "expected"),
    [
        ("minimal", SEPARATE, ["q_proj", "v_proj"]),
        ("attention", SEPARATE, ["k_proj", "o_proj", "q_proj", "v_proj"]),
        ("full", SEPARATE, SEPARATE),
        ("minimal", FUSED, ["qkv_proj"]),
        ("attention", FUSED, ["o_proj", "qkv_proj"]),
        ("full", FUSED, FUSED),
        ("all-linear", ["dense", "query_key_value"], ["dense", "query_key_value"]),
        (["o_proj", "q_proj"], SEPARATE, ["o_proj", "q_proj"]),
    ],
)
def test_targets_are_found_in_separate_and_fused_projections(preset, existing, expected):
    assert resolve_targets(preset, existing) == Targets(expected, [])


@pytest.mark.parametrize(
    ("wanted", "existing", "missing"),
    [
        ("full", ["dense", "query_key_value"], "down_proj, gate_proj, k_proj"),
        (["q_proj", "q_prj"], SEPARATE, "the list names q_prj,"),
        (["q_proj"], FUSED, "q_proj"),
        ("full", [name for name in SEPARATE if name != "gate_proj"], "preset 'full' names gate_proj,"),
    ],
)
def test_targets_that_fit_only_in_part_are_refused_with_what_exists(wanted, existing, missing):
    with pytest.raises(SettingsError) as caught:
        resolve_targets(wanted, existing)
    assert missing in caught.value.message
    assert ", ".join(existing) in caught.value.hint


def test_the_output_head_is_no_target(llama):
    assert lora.linear_names(llama) == SEPARATE
    assert lora.linear_names(Phi3ForCausalLM(Phi3Config(**SIZES))) == FUSED


def test_an_adapter_starts_in_fp32_from_the_seed_alone_and_only_it_is_trained(llama, recipe, base):
    model = lora.attach(llama.bfloat16(), recipe(compute_dtype="bfloat16"), base, seed=3)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    torch.manual_seed(99)
    other = LlamaForCausalLM(LlamaConfig(**SIZES)).bfloat16()
    again = lora.attach(other, recipe(compute_dtype="bfloat16"), base, seed=3)
    first, second = lora.state(model), lora.state(again)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_dora_and_rslora_reach_peft(llama, recipe, base):
    model = lora.attach(llama, recipe(dora=True, rslora=True, rank=16, alpha=8), base, seed=3)
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    assert layer.scaling["default"] == 8 / 4
    assert any("lora_magnitude_vector" in name for name in lora.state(model))


def test_an_adapter_folder_names_the_hub_base_and_never_a_cache_path(llama, recipe, base, tmp_path):
    model = lora.attach(llama, recipe(), base, seed=3)
    lora.write_adapter(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("acme/tiny", "c0ffee")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert "/somewhere" not in (tmp_path / "adapter_config.json").read_text()


def test_an_adapter_that_is_not_finite_is_not_handed_out(llama, recipe, base, tmp_path):
    model = lora.attach(llama, recipe(), base, seed=3)
    with torch.no_grad():
        model.get_parameter("base_model.model.model.layers.0.mlp.up_proj.lora_B.default.weight")[0, 0] = float("inf")
    with pytest.raises(TrainingError, match=r"not finite, first in .*up_proj"):
        lora.write_adapter(model, tmp_path)


def test_a_state_comes_back_to_the_bit_and_another_adapter_s_is_refused(llama, recipe, base, tmp_path):
    model = lora.attach(llama, recipe(), base, seed=3)
    kept = lora.state(model)
    lora.write_state(tmp_path / "best.safetensors", kept)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    lora.restore(model, lora.read_state(tmp_path / "best.safetensors"))
    back = lora.state(model)
    assert all(torch.equal(kept[name], back[name]) for name in kept)
    with pytest.raises(TrainingError, match="another rank"):
        lora.restore(model, {name: tensor[:2, :2] for name, tensor in kept.items()})
