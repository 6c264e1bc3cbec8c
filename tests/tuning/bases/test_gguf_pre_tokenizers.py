"""Every known pre-tokenizer against llama.cpp's own tokenizer (the wheel xllamacpp), over texts in many scripts."""

import json
import urllib.request

import pytest
from tokenizers import Tokenizer, models

from celora.tuning.bases import gguf
from celora.tuning.bases.gguf_pre_tokenizers import PRE_TOKENIZERS, apply_pre_tokenizer, begin_with

xllamacpp = pytest.importorskip("xllamacpp")

CASELESS = {"tekken", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"}
"""Names for whose classes of case llama.cpp takes ASCII alone."""
NARROW = {"deepseek-llm", "deepseek-coder"}
"""Names in whose patterns llama.cpp takes white space beyond ASCII for a vertical tab."""


def ours(vocabulary, name):
    vocab, merges = vocabulary
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    apply_pre_tokenizer(tokenizer, PRE_TOKENIZERS[name])
    return tokenizer


def llama_cpps(path, texts, *, add_special=False, parse_special=False):
    """The tokens that llama.cpp's server gives for texts."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx, parameters.warmup, parameters.fit_params, parameters.verbosity = 256, False, False, -1
    parameters.cpuparams.n_threads = 1
    server = xllamacpp.Server(parameters)
    given = []
    for text in texts:
        body = json.dumps({"content": text, "add_special": add_special, "parse_special": parse_special}).encode()
        request = urllib.request.Request(f"{server.listening_address}/tokenize", body)  # noqa: S310  (our own server)
        with urllib.request.urlopen(request) as answer:  # noqa: S310  (the same)
            given.append(json.load(answer)["tokens"])
    return given


@pytest.mark.slow
@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_words_are_cut_as_llama_cpp_cuts_them(name, vocabulary, texts, gguf_writer, tmp_path):
    gguf_writer(tmp_path / "model.gguf", vocabulary, name)
    asked = texts["plain"] if name in CASELESS else texts["many"] if name in NARROW else texts["many"] + texts["wide"]
    theirs = llama_cpps(tmp_path / "model.gguf", asked)
    assert [encoding.ids for encoding in ours(vocabulary, name).encode_batch(asked)] == theirs


@pytest.mark.slow
def test_a_text_begins_where_llama_cpp_begins_it(vocabulary, gguf_writer, tmp_path):
    gguf_writer(tmp_path / "model.gguf", vocabulary, "llama-bpe", add_bos=None)
    tokenizer = ours(vocabulary, "llama-bpe")
    tokenizer.add_special_tokens(["<s>"])
    begin_with(tokenizer, "<s>")
    assert PRE_TOKENIZERS["llama-bpe"].begins
    (theirs,) = llama_cpps(tmp_path / "model.gguf", ["a word"], add_special=True)
    assert tokenizer.encode("a word").ids == theirs


@pytest.mark.slow
def test_sentencepiece_texts_get_their_space_where_llama_cpp_puts_it(texts, sentencepiece_writer, tmp_path):
    path = tmp_path / "model.gguf"
    sentencepiece_writer(path, texts["plain"])
    tokenizer = gguf._tokenizer(path, gguf.read_facts(path))
    asked = [*texts["plain"], *(f"  {text}" for text in texts["plain"][:50]), " ", "a", " a"]
    theirs = llama_cpps(path, asked)
    assert [tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in asked] == theirs
    (behind,) = llama_cpps(path, ["one</s>two</s> three"], parse_special=True)
    assert tokenizer.backend_tokenizer.encode("one</s>two</s> three", add_special_tokens=False).ids == behind


def test_the_names_differ_in_the_texts_that_they_are_checked_with(vocabulary, texts):
    """Two rules that the texts could not tell apart would make the comparison worth nothing."""
    given = {}
    for name, words in PRE_TOKENIZERS.items():
        ids = [encoding.ids for encoding in ours(vocabulary, name).encode_batch(texts["plain"] + texts["many"])]
        given.setdefault(words.patterns, (name, ids))
    kinds = list(given.values())
    alike = [(one, other) for place, (one, ids) in enumerate(kinds) for other, same in kinds[:place] if ids == same]
    assert alike == []


def test_each_digit_is_a_word_for_smollm_and_a_number_for_gpt_2(vocabulary):
    def cut(name):
        tokenizer = ours(vocabulary, name)
        return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str("\n\n12 a")]

    assert cut("smollm") == ["ĊĊ", "1", "2", "Ġa"]
    assert cut("gpt-2") == ["Ċ", "Ċ", "12", "Ġa"]


def test_a_whole_word_of_the_vocabulary_is_one_token_where_llama_3s_rules_hold():
    vocab = {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5}
    merges = [("a", "b"), ("b", "c")]  # none leads to abc
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    apply_pre_tokenizer(tokenizer, PRE_TOKENIZERS["gpt-2"])
    assert tokenizer.encode("abc").ids == [3, 2]
    apply_pre_tokenizer(tokenizer, PRE_TOKENIZERS["llama-bpe"])
    assert tokenizer.encode("abc").ids == [5]
