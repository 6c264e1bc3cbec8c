"""The real model of the catalogue, converted, quantized and asked a question; and a damaged copy of its file."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import pytest
from tokenizers import Tokenizer, models

from celora.errors import BaseModelError
from celora.settings import bases
from celora.tuning.bases import base
from celora.tuning.bases.gguf_pre_tokenizers import PRE_TOKENIZERS, apply_pre_tokenizer
from celora.tuning.protocol import HubAccess

SMOLLM = bases.CATALOGUE[0]


@pytest.fixture
def gguf():
    try:
        metadata.distribution(SMOLLM.package)
    except metadata.PackageNotFoundError:
        pytest.skip(f"needs: {SMOLLM.install_command}")
    return bases.locate(SMOLLM)


RESOLVE = """
import sys
from pathlib import Path
from celora.tuning.bases.base import resolve
from celora.tuning.protocol import HubAccess
resolve(sys.argv[1], None, Path(sys.argv[2]), HubAccess(), lambda _event, **fields: print(fields["phase"]))
"""


@pytest.mark.slow
def test_the_catalogues_base_is_converted_once_by_two_processes_and_speaks(gguf, tmp_path, recorder):
    import torch

    torch.set_num_threads(1)
    command = [sys.executable, "-c", RESOLVE, SMOLLM.name, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(said) == ["", f"converting {gguf.name}\n"]
    emit = recorder()
    found = base.resolve(SMOLLM.name, None, tmp_path, HubAccess(), emit)
    assert emit.events == []
    assert (found.kind, found.name, found.model_type) == ("catalogue", SMOLLM.name, "llama")
    assert (found.parameters, found.context_tokens) == (134_515_008, 8192)
    assert found.revision == f"sha256:{SMOLLM.sha256}"
    folder = base.folder(found, tmp_path, HubAccess(), emit)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    tokenizer = base.load_tokenizer(folder)
    model, unquantized = base.load_model(
        found, tmp_path, HubAccess(), quantization="none", compute_dtype="float32", device="cpu", emit=emit
    )
    assert unquantized == []
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.eval().generate(**prompt, max_new_tokens=8, do_sample=False)[0][prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


def test_a_carrier_with_another_file_is_refused_by_its_digest(gguf, tmp_path, recorder, monkeypatch):
    monkeypatch.setattr(bases, "CATALOGUE", (replace(SMOLLM, sha256="0" * 64),))
    with pytest.raises(BaseModelError, match=f"is not the pinned one: its SHA-256 is {SMOLLM.sha256}"):
        base.resolve(SMOLLM.name, None, tmp_path, HubAccess(), recorder())


def resolve(path, cache, recorder):
    found = base.resolve(str(path), None, cache, HubAccess(), recorder())
    return found, base.folder(found, cache, HubAccess(), recorder())


SMOLLM_SAYS = {
    "Pick 3 of 12 rows.\n\n1. x": ["Pick", "Ġ", "3", "Ġof", "Ġ", "1", "2", "Ġrows", ".", "ĊĊ", "1", ".", "Ġx"],
}


@pytest.mark.slow
def test_the_catalogues_base_writes_each_digit_as_a_token(gguf, tmp_path, recorder):
    _, folder = resolve(SMOLLM.name, tmp_path, recorder)
    tokenizer = base.load_tokenizer(folder)
    assert {text: tokenizer.tokenize(text) for text in SMOLLM_SAYS} == SMOLLM_SAYS


def test_the_converted_tokenizer_cuts_words_by_the_files_own_rules(vocabulary, texts, gguf_writer, tmp_path, recorder):
    cut = {}
    for name in ("smollm", "gpt-2"):
        gguf_writer(tmp_path / f"{name}.gguf", vocabulary, name)
        _, folder = resolve(tmp_path / f"{name}.gguf", tmp_path / "cache", recorder)
        cut[name] = base.load_tokenizer(folder)
    assert words_of(cut["smollm"], "12 a") == ["1", "2", "Ġa"]
    assert words_of(cut["gpt-2"], "12 a") == ["12", "Ġa"]
    reference = Tokenizer(models.BPE(vocab=vocabulary[0], merges=vocabulary[1]))
    apply_pre_tokenizer(reference, PRE_TOKENIZERS["smollm"])
    for text in texts["many"]:
        assert cut["smollm"](text)["input_ids"] == reference.encode(text).ids


@pytest.mark.parametrize(
    ("name", "words"), [("made-up", "names the rules 'made-up'"), ("default", "'default'"), (None, "names no rules")]
)
def test_a_file_whose_words_are_cut_by_unknown_rules_is_refused(  # noqa: PLR0917  (fixtures)
    vocabulary, gguf_writer, tmp_path, recorder, name, words
):
    gguf_writer(tmp_path / "model.gguf", vocabulary, name)
    with pytest.raises(BaseModelError, match=words) as refusal:
        resolve(tmp_path / "model.gguf", tmp_path / "cache", recorder)
    assert "Put the model's own tokenizer.json" in refusal.value.hint


def words_of(tokenizer, text):
    return [word for word, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def test_a_tokenizer_that_the_caller_brings_is_used_and_is_a_part_of_the_revision(
    vocabulary, gguf_writer, tmp_path, recorder
):
    from transformers import PreTrainedTokenizerFast

    def bring(name):
        brought = Tokenizer(models.BPE(vocab=vocabulary[0], merges=vocabulary[1]))
        apply_pre_tokenizer(brought, PRE_TOKENIZERS[name])
        brought.add_special_tokens(["<s>", "</s>"])
        fast = PreTrainedTokenizerFast(tokenizer_object=brought, bos_token="<s>", eos_token="</s>")
        fast.save_pretrained(tmp_path)
        return resolve(tmp_path / "model.gguf", tmp_path / "cache", recorder)

    gguf_writer(tmp_path / "model.gguf", vocabulary, "made-up")
    (first, folder), (second, other) = bring("smollm"), bring("gpt-2")
    assert first.revision != second.revision
    assert words_of(base.load_tokenizer(folder), "12 a") == ["1", "2", "Ġa"]
    assert words_of(base.load_tokenizer(other), "12 a") == ["12", "Ġa"]


def fine(drawn, hidden):
    """Numbers that need all bits of fp32."""
    return (1 + drawn.standard_normal(hidden) * 1e-4).astype("float32")


@pytest.mark.parametrize(
    ("dtype", "norms", "stored"),
    [("float32", None, "F32"), ("float16", None, "F16"), ("float16", fine, "F32"), ("float32", fine, "F32")],
)
def test_unquantized_numbers_keep_their_bits(  # noqa: PLR0917  (fixtures)
    vocabulary, gguf_writer, tmp_path, recorder, dtype, norms, stored
):
    import numpy as np
    from safetensors import safe_open

    written = gguf_writer(tmp_path / "model.gguf", vocabulary, "gpt-2", dtype=dtype, norms=norms)
    _, folder = resolve(tmp_path / "model.gguf", tmp_path / "cache", recorder)
    pairs = {
        "token_embd": "model.embed_tokens",
        "blk.0.ffn_up": "model.layers.0.mlp.up_proj",
        "output_norm": "model.norm",
    }
    with safe_open(folder / "model.safetensors", "numpy") as file:
        for ours, theirs in pairs.items():
            kept = file.get_tensor(f"{theirs}.weight")
            assert file.get_slice(f"{theirs}.weight").get_dtype() == stored
            assert np.array_equal(kept.astype(np.float64), written[ours].astype(np.float64))


def test_a_copy_of_an_earlier_version_of_the_conversion_is_not_used_again(
    vocabulary, gguf_writer, tmp_path, recorder, monkeypatch
):
    from celora.tuning.bases import gguf as conversion

    gguf_writer(tmp_path / "model.gguf", vocabulary, "gpt-2")
    _, first = resolve(tmp_path / "model.gguf", tmp_path / "cache", recorder)
    monkeypatch.setattr(conversion, "VERSION", conversion.VERSION + 1)
    _, second = resolve(tmp_path / "model.gguf", tmp_path / "cache", recorder)
    assert first != second
