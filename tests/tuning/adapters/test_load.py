import warnings

import pytest

from celora.errors import StorageError

pytest.importorskip("peft")

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from celora.tuning.adapters.load import add_adapter, plain_peft


def base():
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, **size))


def written(folder, seed):
    """An adapter folder whose two matrices are drawn with a seed."""
    model = base()
    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules=["down_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    with warnings.catch_warnings():  # PEFT 0.21 asks transformers 5 by a deprecated name
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        get_peft_model(model, config).save_pretrained(str(folder))
    return folder


def logits(model):
    with torch.inference_mode():
        return model(input_ids=torch.arange(8)[None]).logits


def test_a_second_adapter_is_loaded_beside_the_first_and_answers_when_it_is_switched_on(tmp_path):
    first, second = written(tmp_path / "first", 1), written(tmp_path / "second", 2)
    model = plain_peft(base(), first)
    assert not model.training
    alone = logits(model)
    add_adapter(model, second, "rival")
    assert torch.equal(logits(model), alone)
    model.set_adapter("rival")
    assert torch.allclose(logits(model), logits(plain_peft(base(), second)))
    assert not torch.allclose(logits(model), alone)


@pytest.mark.parametrize("missing", ["adapter_model.safetensors", "adapter_config.json"])
def test_nothing_but_safetensors_is_ever_loaded(tmp_path, missing):
    folder, whole = written(tmp_path / "broken", 1), written(tmp_path / "whole", 2)
    (folder / missing).rename(folder / "aside")
    torch.save({}, folder / "adapter_model.bin")
    with pytest.raises(StorageError, match="is no adapter"):
        plain_peft(base(), folder)
    with pytest.raises(StorageError, match="is no adapter"):
        add_adapter(plain_peft(base(), whole), folder, "rival")
