"""A model is as it was loaded after a run has left its traces on it; only its weights are not undone, but checked."""

import warnings
from functools import partial

import pytest


@pytest.fixture
def model():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config).eval()


def logits(model):
    import torch

    with torch.no_grad():
        return model(input_ids=torch.arange(8)[None]).logits


def structure(model):
    """What a run could have changed, apart from the weights."""
    return {
        name: (type(module), module.training, sorted(vars(module)), [*module._modules], len(module._forward_hooks))
        for name, module in model.named_modules()
    }


def adapted(model):
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=2, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)  # PEFT's call
        return get_peft_model(model, settings)


def test_everything_that_a_run_leaves_on_a_base_is_undone(model):
    import torch

    from celora.tuning.bases.module_state import ModuleState, digests

    before, expected = structure(model), logits(model)
    state, known = ModuleState(model), digests(model)
    tuned = adapted(model)
    tuned.train()
    model.activation_checkpointing_enable()
    model.enable_input_require_grads()
    model.forward = partial(model.forward)
    model.config.use_cache, model.config.colour = False, "blue"
    model.generation_config.eos_token_id = [7]
    model.model.layers[0].register_forward_hook(lambda *_: None)
    tuned(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    norm = model.model.norm.weight
    norm.data = norm.data.double()
    norm.requires_grad_(requires_grad=False)
    state.restore()
    assert structure(model) == before
    assert torch.equal(logits(model), expected)
    assert digests(model) == known
    assert model.config.use_cache is True
    assert not hasattr(model.config, "colour")
    assert model.generation_config.eos_token_id != [7]
    assert all(one.grad is None and one.requires_grad for one in model.parameters())  # as a fresh model of transformers
    assert not model.is_activation_checkpointing


def test_a_second_run_finds_the_model_as_the_first_did(model):
    from celora.tuning.bases.module_state import ModuleState

    state = ModuleState(model)
    for _ in range(3):
        tuned = adapted(model)
        names = [name for name, _ in tuned.named_modules()]
        state.restore()
    assert sum("lora_A.default" in name for name in names) == 14
    assert not any("lora" in name for name, _ in model.named_modules())


def test_a_configuration_inside_another_stays_the_same_object(model):
    from transformers import LlamaConfig

    from celora.tuning.bases.module_state import ModuleState

    inner = LlamaConfig(hidden_size=64)
    model.config.text_config = model.model.layers[0].config = inner
    state = ModuleState(model)
    inner.hidden_size = 96
    state.restore()
    assert model.config.text_config is model.model.layers[0].config is inner
    assert inner.hidden_size == 64


def test_one_changed_bit_of_any_tensor_is_seen(model):
    import torch

    from celora.tuning.bases.module_state import digests

    model.register_buffer("odd", torch.arange(13, dtype=torch.uint8))  # its last bytes fill no word of 64 bits
    model.lm_head.weight.quant_state = type("State", (), {})()
    model.lm_head.weight.quant_state.absmax = torch.ones(5)
    known = digests(model)
    assert len(known) == len([*model.parameters()]) + len([*model.buffers()]) + 1
    places = {
        "odd": model.odd,
        "lm_head.weight.absmax": model.lm_head.weight.quant_state.absmax,
        "model.norm.weight": model.model.norm.weight.data,
    }
    for name, tensor in places.items():
        bytes_ = tensor.view(torch.uint8)
        for place in (0, len(bytes_) - 1):
            bytes_[place] ^= 1
            found = digests(model)
            assert [one for one in known if found[one] != known[one]] == [name]
            bytes_[place] ^= 1
    assert digests(model) == known


def test_words_that_change_places_are_seen():
    import torch

    from celora.tuning.bases.module_state import CHUNK_WORDS, digests

    layer = torch.nn.Linear(1, 1)
    for size, places in (
        (4, [1, 0, 2, 3]),
        (2 * CHUNK_WORDS, [*range(CHUNK_WORDS, 2 * CHUNK_WORDS), *range(CHUNK_WORDS)]),
    ):
        layer.weight = torch.nn.Parameter(torch.arange(size, dtype=torch.int64), requires_grad=False)
        known = digests(layer)["weight"]
        layer.weight.data = layer.weight.data[torch.tensor(places)]
        assert digests(layer)["weight"] != known


def test_the_size_counts_the_constants_of_a_quantized_weight(model):
    import torch

    from celora.tuning.bases.module_state import size_bytes

    before = size_bytes(model)
    model.lm_head.weight.quant_state = type("State", (), {})()
    model.lm_head.weight.quant_state.absmax = torch.ones(5)
    assert size_bytes(model) == before + 20


def test_a_twin_has_the_same_weights_in_memory_and_nothing_else_in_common(model):
    import torch
    from peft import LoraConfig, get_peft_model

    from celora.tuning.bases.module_state import twin

    expected, before = logits(model), structure(model)
    one, other = twin(model), twin(model)
    places = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    assert {name: weight.data_ptr() for name, weight in one.named_parameters()} == places
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for a property by its old name
        adapted = get_peft_model(one, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.train()
    one.config.use_cache = False
    adapted(input_ids=torch.arange(8)[None]).logits.sum().backward()
    assert not torch.equal(logits(one), expected)
    for untouched in (model, other):
        assert torch.equal(logits(untouched), expected)
        assert structure(untouched) == before
        assert untouched.config.use_cache
        assert all(weight.grad is None and weight.requires_grad for weight in untouched.parameters())
