"""The real model of the catalogue, converted, quantized and asked a question; and a damaged copy of its file."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import pytest

from celora.settings import bases
from celora.settings.errors import BaseModelError
from celora.tuning import base
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
from celora.tuning.base import resolve
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
