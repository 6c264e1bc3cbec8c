"""Judgements about torch, by tables of the facts that a child reports: drivers and devices that no test machine has."""

import pytest

from celora.doctor import torch
from celora.workers.gpu import Driver

OLD, NEW = Driver(version="535.1", cuda=(12, 2)), Driver(version="580.65", cuda=(13, 0))


@pytest.mark.parametrize(
    ("cuda", "usable", "driver", "level", "words"),
    [
        ("12.8", True, NEW, "ok", "the driver supports up to 13.0"),
        ("12.8", True, OLD, "warn", "compiled late"),
        ("13.0", True, OLD, "fail", "needs CUDA 13.0; driver 535.1 supports up to 12.2"),
        ("12.1", False, OLD, "fail", "can't use the GPU"),
        (None, False, NEW, "fail", "was built for the CPU"),
        ("12.8", False, None, "ok", "there is no device"),
        (None, False, None, "ok", "torch 2.13.0"),
    ],
)
def test_torchs_cuda_is_compared_with_the_drivers(cuda, usable, driver, level, words):
    found = torch.torch({"version": "2.13.0", "cuda": cuda, "cuda_usable": usable, "said": ""}, "", driver)
    assert (found.level, words in found.found) == (level, True), found
    assert bool(found.fix) == (level != "ok")


def test_a_torch_that_does_not_load_is_told_by_its_last_words():
    found = torch.torch(None, "ImportError: libcudart.so.13", None)
    assert (found.level, "libcudart" in found.found) == ("fail", True)


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        ({"device": "cpu", "dtype": "float32", "cpu_bf16": False}, "ok", "25 times slower"),
        ({"device": "cpu", "dtype": "bfloat16", "cpu_bf16": True}, "ok", "computes in bf16"),
        ({"device": "cuda", "dtype": "bfloat16", "capability": "9.0", "built_for": ["sm_90"]}, "ok", "from 8.0 up"),
        ({"device": "cuda", "dtype": "float16", "capability": "7.5", "built_for": ["sm_75"]}, "ok", "only from 8.0 up"),
        ({"device": "cuda", "dtype": "float16", "capability": "7.0", "built_for": ["sm_75"]}, "warn", "not built for"),
    ],
)  # fmt: skip
def test_the_compute_dtype_is_told_with_its_reason(facts, level, words):
    found = torch.dtype({"name": "a device", **facts}, "")
    assert (found.level, facts["dtype"] in found.found or level == "warn", words in found.found) == (level, True, True)


@pytest.mark.parametrize(("error", "level"), [(0.092, "ok"), (0.0, "fail"), (0.6, "fail")])
def test_nf4_must_cost_what_nf4_costs(error, level):
    assert torch.nf4({"error": error, "device": "cuda", "version": "0.50.2"}, "").level == level


def test_parts_that_the_child_did_not_reach_fail_with_its_last_words():
    for judge in (torch.dtype, torch.nf4):
        found = judge(None, "the process was ended by signal 11")
        assert (found.level, "signal 11" in found.found, found.fix) == ("fail", True, torch.REINSTALL)


@pytest.mark.parametrize(
    ("code", "errors", "words"),
    [
        (0, "a warning", ""),
        (None, "", f"it gave no answer within {torch.WITHIN_S:.0f} s"),
        (-11, "Traceback", "the process was ended by signal 11"),
        (1, "Traceback\n  line\nImportError: no libcudart\n\n", "ImportError: no libcudart"),
        (1, " \n", "exit code 1"),
        (1, "x" * 999, "x" * 300),
    ],
)
def test_the_end_of_the_child_is_told_in_a_line(code, errors, words):
    assert torch._ending(code, errors) == words


@pytest.mark.parametrize(("output", "text"), [(None, ""), (b"caf\xe9", "caf\N{REPLACEMENT CHARACTER}"), ("x", "x")])
def test_the_output_of_a_child_that_was_killed_is_text(output, text):
    assert torch._text(output) == text
