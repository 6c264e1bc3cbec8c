"""Facts of a device: the CPU's from this machine, the GPU's from the answers that torch gives."""

import os

import psutil
import pytest
import torch

from celora.tuning import device


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16"), ((12, 1), "bfloat16")]
)
def test_a_gpu_computes_in_bf16_from_capability_8_on(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert device.compute_dtype("cuda") == dtype


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_cpu_computes_in_bf16_where_it_has_the_instructions(monkeypatch, has_bf16, dtype):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_bf16)
    assert device.compute_dtype("cpu") == dtype


def test_the_memory_of_a_cpu_is_the_machines():
    total = psutil.virtual_memory().total
    assert device.total_memory_bytes("cpu") == total
    facts = device.memory_facts("cpu")
    assert facts["total_bytes"] == total
    assert 0 < facts["own_bytes"] <= total
    assert 0 < facts["used_bytes"] <= total
    assert device.in_use("cpu") == (None, None)


def test_the_peak_is_never_below_a_size_that_the_process_had():
    block = bytearray(os.urandom(1024)) * (32 * 1024)  # 32 MiB, written
    held = psutil.Process().memory_info().rss
    assert len(block) == 2**25
    del block
    assert device.peak_memory_bytes("cpu") >= held - 2**20  # the kernel counts in batches of pages


def test_the_memory_of_a_gpu_is_split_into_everybodys_and_ones_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3, 10))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 5)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 6)
    assert device.total_memory_bytes("cuda") == 10
    assert device.memory_facts("cuda") == {"total_bytes": 10, "used_bytes": 7, "own_bytes": 5, "peak_bytes": 6}


@pytest.mark.parametrize("error", [ModuleNotFoundError("pynvml"), RuntimeError("no NVML"), OSError("no driver")])
def test_a_driver_without_nvml_leaves_out_one_figure(monkeypatch, error):
    def broken():
        raise error

    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 7)
    monkeypatch.setattr(torch.cuda, "utilization", broken)
    assert device.in_use("cuda") == (7, None)
    monkeypatch.setattr(torch.cuda, "utilization", lambda: 93)
    assert device.in_use("cuda") == (7, 93)


def test_the_versions_name_every_library_that_decides_the_bits():
    found = device.versions("cpu")
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert set(found) == {"celora", "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "device"}
    assert found["device"] == device.name("cpu")
    assert found["device"].startswith("cpu ")


def test_the_mode_of_the_math_libraries_that_decides_a_cpus_last_bits_is_told(monkeypatch):
    for name in device.MATH_MODES:
        monkeypatch.delenv(name, raising=False)
    usual = device.arithmetic("cpu")
    assert usual == {"threads": str(torch.get_num_threads()), "math_mode": "default"}
    monkeypatch.setenv("MKL_CBWR", "AVX2,STRICT")
    assert device.arithmetic("cpu")["math_mode"] == "MKL_CBWR=AVX2,STRICT"
    assert device.arithmetic("cuda") == {}


def test_a_new_measurement_of_the_peak_begins_at_what_is_held_now():
    held = bytearray(64 * 2**20)
    held[:: 2**12] = b"\1" * len(held[:: 2**12])  # so that each page is there
    peak = device.peak_memory_bytes("cpu")
    del held
    device.reset_peak("cpu")
    assert device.peak_memory_bytes("cpu") < peak - 32 * 2**20
