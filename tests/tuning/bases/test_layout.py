"""The kinds of a base's weights by the headers of its files, on real tiny models of several families."""

from pathlib import Path

import pytest
import transformers

from celora.tuning.adapters.lora import linear_names
from celora.tuning.bases.layout import Layout
from celora.tuning.bases.quantize import empty_model

TINY = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
GPT2 = {"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
MIXTURE = TINY | {"moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}


@pytest.fixture(scope="module")
def layout_of(make_base):
    def make(family, fields):
        folder = Path(make_base(getattr(transformers, f"{family}Config")(**fields), family.lower()).source)
        return folder, Layout.of(folder)

    return make


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("Llama", TINY),
        ("Phi3", TINY),
        ("Qwen3", TINY | {"head_dim": 16, "tie_word_embeddings": True}),
        ("GPT2", GPT2),
        ("GPTNeoX", {name: value for name, value in TINY.items() if name != "num_key_value_heads"}),
    ],
)
def test_the_headers_name_the_linear_layers_that_the_model_has(layout_of, family, fields):
    folder, layout = layout_of(family, fields)
    assert layout.linear_names == linear_names(empty_model(folder, code=False))
    assert layout.embedding_rows == 96
    assert not layout.has_experts


def test_the_rows_of_the_embedding_are_its_tensors_and_not_what_the_configuration_says(layout_of):
    _, layout = layout_of("Llama", TINY)
    assert Layout(shapes=layout.shapes, vocabulary=999, model_type="llama").embedding_rows == 96
    assert Layout(shapes={}, vocabulary=999, model_type="llama").embedding_rows == 999


def test_experts_are_named_with_their_numbers_and_no_adapter_changes_them(layout_of):
    _, layout = layout_of("Qwen3Moe", MIXTURE)
    assert layout.has_experts
    kept = {each.name: each for each in layout.kept()}
    experts = [each for each in kept.values() if not each.adapted]
    assert sum(each.parameters for each in experts) == 2 * 4 * 3 * 64 * 64
    assert all(".experts." in each.name for each in experts)
    assert not {"gate_proj", "up_proj", "down_proj"} & set(layout.linear_names)


@pytest.mark.parametrize(
    ("family", "fields", "kept"),
    [
        ("Llama", TINY, {}),
        ("Llama", TINY | {"intermediate_size": 172}, {"gate_proj": 2, "up_proj": 2, "down_proj": 2}),
        ("GPT2", GPT2, {}),
        ("GPT2", GPT2 | {"n_inner": 80}, {"c_fc": 2, "c_proj": 2}),
    ],
)
def test_layers_whose_sides_do_not_fit_4_bits_are_counted_over_all_layers(layout_of, family, fields, kept):
    _, layout = layout_of(family, fields)
    assert {each.name.rsplit(".", 1)[-1]: each.count for each in layout.kept()} == kept
