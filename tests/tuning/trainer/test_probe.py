"""The probe prints a JSON line a part, each before the next is tried."""

import json
import sys

import pytest
import torch

from celora.tuning.trainer import probe


def parts(text):
    return {line["part"]: line for line in map(json.loads, text.splitlines())}


def test_it_tells_torch_the_dtype_and_nf4_in_this_order(capsys):
    probe.main()
    found = parts(capsys.readouterr().out)
    assert list(found) == ["torch", "dtype", "nf4"]
    assert found["torch"]["version"] == torch.__version__
    assert found["torch"]["cuda_usable"] == torch.cuda.is_available()
    assert found["dtype"]["dtype"] in ("float32", "bfloat16", "float16")
    assert 0.05 < found["nf4"]["error"] < 0.15


def test_what_came_before_a_broken_library_is_told(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(ImportError):
        probe.main()
    assert list(parts(capsys.readouterr().out)) == ["torch", "dtype"]


def test_the_capability_of_a_gpu_is_told_with_those_of_the_build(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A10G")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    found = probe._dtype(torch, "cuda")
    assert (found["name"], found["dtype"], found["capability"]) == ("NVIDIA A10G", "bfloat16", "8.6")
    assert found["built_for"] == ["sm_80", "sm_90"]
