"""vLLM's table of architectures, as celora keeps it."""

import transformers

from celora.tuning.adapters.vllm_architectures import WITH_LORA, WITHOUT_LORA


def test_no_architecture_stands_in_both_lists():
    assert not WITH_LORA & WITHOUT_LORA


def test_the_names_are_those_that_transformers_writes_into_a_configuration():
    usual = ["LlamaForCausalLM", "Qwen3ForCausalLM", "Phi3ForCausalLM", "MistralForCausalLM", "Gemma2ForCausalLM"]
    assert set(usual) <= WITH_LORA
    assert {"GPT2LMHeadModel", "GPTNeoXForCausalLM"} <= WITHOUT_LORA
    assert all(hasattr(transformers, name) for name in [*usual, "GPT2LMHeadModel", "GPTNeoXForCausalLM"])
