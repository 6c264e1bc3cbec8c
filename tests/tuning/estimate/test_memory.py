import pytest

from celora.tuning.estimate import memory
from celora.tuning.estimate.memory import lora_parameters, memory_bytes
from celora.tuning.recipe import TARGET_PRESETS, Recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks by the old name

LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
PARAMETERS_8B = 8_030_261_248
SMOLLM = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
PARAMETERS_135M = 134_515_008


def test_the_adapters_of_two_known_models_have_their_known_sizes():
    assert lora_parameters(LLAMA_8B, Recipe()) == 41_943_040
    assert lora_parameters(SMOLLM, Recipe()) == 4_884_480
    assert lora_parameters(SMOLLM, Recipe(target_modules="minimal")) == 30 * 16 * (576 + 576 + 576 + 192)


@pytest.mark.parametrize("targets", ["minimal", "attention", "full", "all-linear", ["q_proj", "down_proj"]])
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", ["Llama", "Phi3"])
def test_the_adapters_size_equals_pefts(family, targets, dora):
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    config = getattr(transformers, f"{family}Config")(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=50, pad_token_id=0,
    )  # fmt: skip
    shape = memory.Shape.of(config.to_dict())
    names = list(shape.targets(targets))
    recipe = Recipe(rank=4, target_modules=targets, dora=dora)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules=names, use_dora=dora, task_type="CAUSAL_LM"))
    assert sum(w.numel() for w in adapted.parameters() if w.requires_grad) == lora_parameters(config.to_dict(), recipe)
    assert targets != "full" or len(names) == (4 if family == "Phi3" else len(TARGET_PRESETS["full"]))


def test_an_8b_model_in_nf4_takes_5_7_gb_of_base_and_16_without_quantization():
    # 4.127 bits a weight for the blocks, 16 bits for embedding, head and norms (arXiv 2305.14314).
    least = {"parameters": PARAMETERS_8B, "model_config": LLAMA_8B, "length": 0}
    rest = memory.OVERHEAD_BYTES["cuda"] + lora_parameters(LLAMA_8B, Recipe()) * 10 + 4096 * 14336 * 2
    assert (memory_bytes(Recipe(), **least) - rest) / 1e9 == pytest.approx(5.70, abs=0.02)
    assert (memory_bytes(Recipe(quantization="none"), **least) - rest) / 1e9 == pytest.approx(16.06, abs=0.02)


def test_what_is_open_in_a_recipe_counts_with_its_least():
    least = {"parameters": PARAMETERS_8B, "model_config": LLAMA_8B, "length": 2048}
    assert memory_bytes(Recipe(), **least) == memory_bytes(
        Recipe(micro_batch=1, gradient_checkpointing=True, optimizer="paged_adamw_8bit"), **least
    )
    assert memory_bytes(Recipe(micro_batch=2), **least) > memory_bytes(Recipe(), **least)
    assert memory_bytes(Recipe(gradient_checkpointing=False), **least) > memory_bytes(Recipe(), **least)


@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_activation_formula_is_within_a_tenth_of_what_autograd_keeps(dtype, dropout):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    recipe = Recipe(rank=8, dropout=dropout)
    config = LlamaConfig(
        hidden_size=256, intermediate_size=768, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64,
    )  # fmt: skip
    shape = memory.Shape.of(config.to_dict())
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    lora = LoraConfig(r=8, lora_dropout=dropout, target_modules=list(shape.linears), task_type="CAUSAL_LM")
    adapted = get_peft_model(model, lora).train()
    weights = {weight.untyped_storage().data_ptr() for weight in adapted.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(input_ids=torch.randint(0, 64, (1, 64)), use_cache=False)
    seen = sum(size for size, _ in kept.values()) / 64 / 6
    width = 4 if dtype == "float32" else 2
    expected = memory.activation_bytes_per_token(shape, recipe, width=width, device="cpu")
    assert expected == pytest.approx(seen, rel=0.1)
