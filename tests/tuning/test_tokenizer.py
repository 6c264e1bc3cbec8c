import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from celora.settings.errors import BaseModelError
from celora.tuning.base import load_tokenizer


@pytest.fixture
def save(tmp_path):
    def make(*special, rows=None, **roles):
        words = [*special, "a", "b", "c"]
        tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(tmp_path)
        config = {"model_type": "llama", "vocab_size": rows or len(words)}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("special", "roles", "pad"),
    [
        (("<pad>", "</s>"), {"pad_token": "<pad>", "eos_token": "</s>"}, "<pad>"),
        (("<|pad|>", "</s>", "<unk>"), {"eos_token": "</s>", "unk_token": "<unk>"}, "<|pad|>"),
        (("</s>", "<|reserved_special_token_3|>"), {"eos_token": "</s>"}, "<|reserved_special_token_3|>"),
        (("</s>", "<unk>"), {"eos_token": "</s>", "unk_token": "<unk>"}, "<unk>"),
        (("<|endoftext|>",), {"eos_token": "<|endoftext|>"}, "<|endoftext|>"),
    ],
)
def test_the_pad_token_is_the_bases_own_else_an_unused_one_else_unknown_else_end(save, special, roles, pad):
    tokenizer = load_tokenizer(save(*special, **roles))
    assert tokenizer.pad_token == pad
    assert len(tokenizer) == len(special) + 3, "no token was added"


def test_a_pad_token_beyond_the_embeddings_is_passed_over(save):
    folder = save("</s>", "<unk>", eos_token="</s>", unk_token="<unk>", pad_token="[NEW]", rows=5)
    assert load_tokenizer(folder).pad_token == "<unk>"


def test_a_tokenizer_that_can_pad_with_nothing_is_refused_with_the_way_out(save):
    with pytest.raises(BaseModelError, match="has no pad token") as refusal:
        load_tokenizer(save())
    assert '"pad_token"' in refusal.value.hint


def test_a_folder_without_a_tokenizer_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(BaseModelError, match=f"the tokenizer in {tmp_path} can't be loaded"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_saved_alone_loads_with_its_template(save):
    folder = save("<pad>", "</s>", pad_token="<pad>", eos_token="</s>")
    (folder / "config.json").unlink()
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a b"}], tokenize=False) == "a b"
