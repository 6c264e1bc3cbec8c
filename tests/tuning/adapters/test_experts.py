"""Experts of a mixture are adapted: trained, verified from their files, merged, and read by plain PEFT."""

import json
from pathlib import Path

import pytest

from celora.errors import SettingsError
from celora.tuning.estimate.memory import lora_parameters
from celora.tuning.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks by the old name

SIZES = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "pad_token_id": 0, "eos_token_id": 1,
    "num_experts_per_tok": 2,
}  # fmt: skip
FAMILIES = {
    "Qwen3Moe": {"num_experts": 4, "moe_intermediate_size": 32},
    "Qwen2Moe": {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48},
    "Mixtral": {"num_local_experts": 4},
    "GptOss": {"num_local_experts": 4},  # stores inputs before outputs, and biases
}
EXPERTS = ["experts.down_proj", "experts.gate_up_proj"]


@pytest.fixture(scope="module")
def mixture(make_base):
    import transformers

    made = {}

    def of(family):
        if family not in made:
            config = getattr(transformers, f"{family}Config")(**SIZES, **FAMILIES[family])
            made[family] = make_base(config, family.lower())
        return made[family]

    return of


@pytest.fixture(scope="module")
def empty(mixture):
    from celora.tuning.bases.quantize import empty_model

    return lambda family: empty_model(Path(mixture(family).source), code=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_names_attention_and_experts_and_the_estimate_counts_pefts_numbers(empty, family):
    from celora.tuning.adapters import lora

    recipe = Recipe(rank=4, dropout=0, target_modules="full")
    model = empty(family)
    targets = lora.targets_of(model, recipe)
    assert targets.layers == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert targets.experts == EXPERTS
    config = model.config.to_dict()
    adapted = lora._adapted(model, recipe, seed=0)
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert trained == lora_parameters(config, recipe)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expected_tensors_are_those_that_peft_makes(empty, family):
    from peft import get_peft_model_state_dict

    from celora.tuning.adapters import lora
    from celora.tuning.evaluation.verification import expected_shapes

    recipe = Recipe(rank=3, dropout=0, target_modules=["q_proj", *EXPERTS])
    shapes = expected_shapes(empty(family), recipe.target_modules, 3, dora=False)
    adapted = lora._adapted(empty(family), recipe, seed=0)
    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes


def test_experts_are_adapted_where_a_job_names_them_or_asks_for_all_projections(empty):
    from celora.tuning.adapters.lora import targets_of

    def experts(targets):
        return targets_of(empty("Qwen3Moe"), Recipe(dropout=0, target_modules=targets)).experts

    assert experts(["q_proj", "experts.down_proj"]) == ["experts.down_proj"]
    assert experts("attention") == experts("all-linear") == []


@pytest.mark.parametrize("changes", [{"dropout": 0.05}, {"dropout": 0, "dora": True}])
def test_dropout_and_dora_are_refused_for_experts_with_what_to_do(empty, changes):
    from celora.tuning.adapters.lora import targets_of

    with pytest.raises(SettingsError, match="which PEFT adapts without dropout and without DoRA") as caught:
        targets_of(empty("Qwen3Moe"), Recipe(**changes))
    assert caught.value.hint.startswith("Set dropout to 0 and dora to false; or name layers alone: ")


def test_layers_whose_names_peft_reads_as_experts_are_no_layers_of_their_own(empty):
    from celora.tuning.adapters.lora import linear_names

    assert linear_names(empty("Qwen2Moe")) == ["k_proj", "o_proj", "q_proj", "shared_expert_gate", "v_proj"]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "quantization"), [("Qwen3Moe", "nf4"), ("GptOss", "none")])
def test_an_adapter_of_experts_is_trained_verified_merged_and_read_by_plain_peft(  # noqa: PLR0917  (fixtures)
    mixture, make_prepared, make_request, recorder, tmp_path, family, quantization
):
    import torch
    from safetensors.torch import load_file

    from celora.tuning.adapters.merge import merge
    from celora.tuning.evaluation.evaluate import evaluate
    from celora.tuning.protocol import EvaluateRequest, MergeRequest
    from celora.tuning.training.run import train

    base = mixture(family)
    request = make_request(
        base=base, prepared=make_prepared(base), dropout=0, target_modules="full", quantization=quantization,
        epochs=1, learning_rate=2e-2,
    )  # fmt: skip
    record = recorder()
    result = train(request, record, record.stop)
    adapter = Path(request.out_dir) / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert sorted(config["target_parameters"]) == EXPERTS
    moved = [tensor.abs().max() for name, tensor in load_file(adapter / "adapter_model.safetensors").items()
             if "lora_B" in name and "experts" in name]  # fmt: skip
    assert len(moved) == 4
    assert min(moved) > 1e-4
    told = [warning for warning in result.warnings if "experts" in warning]
    assert told == (["4 weights of experts stayed unquantized."] if quantization == "nf4" else [])
    shared = {name: getattr(request, name) for name in ("job", "attempt", "cache_dir", "hub", "threads", "base")}
    measured = evaluate(
        EvaluateRequest(
            **shared, prepared_dir=request.prepared_dir, adapter_dir=str(adapter), recipe=request.resolved,
            trainer_eval_loss=result.eval_loss, metrics=[], max_new_tokens=4, out_dir=str(tmp_path / "evaluation"),
        ),
        lambda *_, **__: None,
    )  # fmt: skip
    assert all(check["ok"] for check in measured.checks)
    assert measured.servable["vllm"] is False
    assert "adapts experts" in measured.servable["reason"]
    merged = merge(
        MergeRequest(**shared, adapter_dir=str(adapter), out_dir=str(tmp_path / "merged"), dtype="float32"),
        lambda *_, **__: None,
    )
    assert merged.logits_apart < merged.adapter_effect / 100
    assert torch.isfinite(torch.tensor(merged.adapter_effect))
