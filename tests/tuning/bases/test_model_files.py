import json
import os
import struct
from pathlib import Path

import pytest

from celora.errors import BaseModelError
from celora.tuning.bases import model_files


def write_safetensors(path, **shapes):
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


def test_parameters_are_counted_from_the_headers_of_all_shards_named_by_the_index(tmp_path):
    write_safetensors(tmp_path / "model-00001-of-00002.safetensors", a=(10, 3))
    write_safetensors(tmp_path / "model-00002-of-00002.safetensors", b=(7,), c=())
    write_safetensors(tmp_path / "consolidated.safetensors", everything=(1000,))
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert model_files.count_parameters(tmp_path) == 30 + 7 + 1


def test_a_count_of_a_real_model_equals_torchs(tiny_base):
    from transformers import AutoModelForCausalLM

    folder = Path(tiny_base.source)
    assert model_files.count_parameters(folder) == AutoModelForCausalLM.from_pretrained(folder).num_parameters()


def test_a_cut_file_is_refused_by_its_header_alone(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", a=(100,))
    whole = (tmp_path / "model.safetensors").read_bytes()
    for length in (4, 20, len(whole) - 1):
        (tmp_path / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(BaseModelError, match=r"model\.safetensors is cut"):
            model_files.count_parameters(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(BaseModelError, match="no safetensors file"):
        model_files.count_parameters(tmp_path)


def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    write_safetensors(tmp_path / "other.safetensors", a=(1,))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(BaseModelError, match="names weights that"):
        model_files.weight_files(folder)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model.bin", "config.json"], "no safetensors weights, only pytorch_model.bin"),
        (["adapter_config.json", "adapter_model.bin"], "is a LoRA adapter"),
        (["README.md"], "has no model weights"),
        (["consolidated.safetensors"], "in consolidated.safetensors alone"),
        (["consolidated.00.safetensors", "params.json"], "in consolidated.00.safetensors alone"),
        (["mine.safetensors"], "no model.safetensors and no index, only mine.safetensors"),
        (["model-00001-of-00002.safetensors"], "several need model.safetensors.index.json"),
    ],
)
def test_what_lies_there_instead_of_safetensors_is_named(tmp_path, names, message):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(BaseModelError, match=message):
        model_files.weight_files(tmp_path)


@pytest.mark.parametrize(
    ("config", "names", "message"),
    [
        ({"auto_map": {"AutoModel": "modeling.Model"}}, [], r"brings code of its own \(auto_map\)"),
        ({}, ["modeling_evil.py"], r"brings code of its own \(modeling_evil\.py\)"),
        ({"_attn_implementation_internal": "evil/kernel"}, [], "_attn_implementation_internal"),
        ({"text_config": {"_attn_implementation_internal": "evil/kernel"}}, [], "_attn_implementation_internal"),
        ({"kernels": {"RMSNorm": "evil/kernel"}}, [], "'kernels'"),
        ({"attn_implementation": "evil/kernel"}, [], "'attn_implementation'"),
        ({"quantization_config": {"quant_method": "gptq"}}, [], r"quantized already \(gptq\)"),
    ],
)
def test_a_base_that_would_run_code_or_is_quantized_is_refused(config, names, message):
    with pytest.raises(BaseModelError, match=message):
        model_files.refuse_unsafe("some/base", [config], names, code_allowed=False)


def test_a_listed_base_may_bring_code_but_never_a_kernel_field():
    model_files.refuse_unsafe("some/base", [{"auto_map": {"AutoModel": "m.M"}}], ["m.py"], code_allowed=True)
    with pytest.raises(BaseModelError, match="fetches and runs code"):
        model_files.refuse_unsafe("some/base", [{"kernels": {"a": "b/c"}}], [], code_allowed=True)


def test_harmless_configurations_pass():
    config = {"attn_implementation": "sdpa", "conv_kernel": 4, "_attn_implementation_internal": None}
    model_files.refuse_unsafe("some/base", [config], ["model.safetensors"], code_allowed=False)


def test_a_digest_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    path, cache = tmp_path / "a.gguf", tmp_path / "cache"
    path.write_bytes(b"one")
    first = model_files.file_digest(path, cache)
    hashed = []
    real = model_files.file_sha256
    monkeypatch.setattr(model_files, "file_sha256", lambda file: hashed.append(file) or real(file))
    assert model_files.file_digest(path, cache) == first
    assert hashed == []
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert model_files.file_digest(path, cache) != first
    assert hashed == [path]


def test_a_folders_digest_changes_with_its_weights_and_with_its_configuration(tmp_path):
    folder, cache = tmp_path / "base", tmp_path / "cache"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", a=(1,))
    (folder / "config.json").write_text("{}")
    first = model_files.folder_digest(folder, cache)
    (folder / "README.md").write_text("words")
    assert model_files.folder_digest(folder, cache) == first
    (folder / "config.json").write_text('{"a": 1}')
    second = model_files.folder_digest(folder, cache)
    write_safetensors(folder / "model.safetensors", a=(2,))
    assert len({first, second, model_files.folder_digest(folder, cache)}) == 3
