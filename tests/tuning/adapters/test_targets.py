"""Target modules that a base does not have, or that PEFT refuses, without the base's weights."""

from pathlib import Path

import pytest
import transformers

from celora.errors import SettingsError
from celora.tuning.adapters.lora import try_targets
from celora.tuning.adapters.targets import refused_by_peft
from celora.tuning.recipe import Recipe

MAMBA = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "state_size": 8,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
GPT2 = {"vocab_size": 96, "n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 64}


@pytest.fixture(scope="module")
def folder_of(make_base):
    def make(family, fields):
        return Path(make_base(getattr(transformers, f"{family}Config")(**fields), family.lower()).source)

    return make


@pytest.mark.parametrize(
    ("family", "fields", "targets", "told"),
    [
        ("GPT2", GPT2, "full", "It has c_attn, c_fc, c_proj"),
        ("GPT2", GPT2, ["wte"], "the list names wte"),
        ("Mamba", MAMBA, ["out_proj"], "the list names out_proj"),
    ],
)
def test_targets_that_do_not_fit_are_refused_with_what_there_is(folder_of, family, fields, targets, told):
    with pytest.raises(SettingsError) as caught:
        try_targets(Recipe(target_modules=targets), folder_of(family, fields), code=False)
    assert told in str(caught.value)


@pytest.mark.parametrize(("family", "fields"), [("GPT2", GPT2), ("Mamba", MAMBA)])
def test_all_linear_leaves_out_what_peft_refuses(folder_of, family, fields):
    for recipe in (Recipe(target_modules="all-linear"), Recipe(target_modules="all-linear", dora=True, rslora=True)):
        try_targets(recipe, folder_of(family, fields), code=False)


def test_a_mamba_model_has_layers_that_peft_refuses_and_a_llama_none():
    assert refused_by_peft("falcon_mamba") == {"out_proj", "conv1d"}
    assert refused_by_peft("llama") == frozenset()
