"""Tokenizers of two kinds, with any chat template."""

import pytest
from chat_families import SPECIAL, byte_level, sentencepiece_like
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="module", params=[byte_level, sentencepiece_like])
def inner(request):
    return request.param()


@pytest.fixture
def tokenizer_with(inner):
    def tokenizer_with(template, **tokens):
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **tokens}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(inner.to_str()), extra_special_tokens=SPECIAL[3:], **names
        )
        tokenizer.chat_template = template
        return tokenizer

    return tokenizer_with
