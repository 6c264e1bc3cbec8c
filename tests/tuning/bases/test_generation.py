import json

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from celora.tuning.bases.generation import save_tokenizer, stop_tokens


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"eos_token_id": 2}', [2]),
        ('{"eos_token_id": [2, 5]}', [2, 5]),
        ('{"eos_token_id": null}', []),
        ('{"eos_token_id": [2, "x", true]}', [2]),
        ("[]", []),
        ("{", []),
        (None, []),
    ],
)
def test_the_stop_tokens_are_those_that_the_generation_config_names(tmp_path, content, found):
    if content is not None:
        (tmp_path / "generation_config.json").write_text(content)
    assert stop_tokens(tmp_path) == found


def test_a_saved_tokenizer_and_its_generation_config_name_the_end_token_in_force(tmp_path):
    inner = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<|im_end|>": 2, "a": 3}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>")
    save_tokenizer(tokenizer, tmp_path, end_token=2, stops=[1, 2])
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token == "<|im_end|>"
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == [2, 1]
    assert json.loads((tmp_path / "generation_config.json").read_text())["pad_token_id"] == 0
    assert stop_tokens(tmp_path) == [2, 1]
