"""Finding devices. NVML is the outside world here, so a stand-in answers for it through the real calls."""

import pytest
from fake_nvml import FakeNvml

from celora.errors import SettingsError, UnavailableError
from celora.settings.gpus import GIB, gpu_catalogue
from celora.workers import gpu

TYPES = gpu_catalogue({})


def test_devices_are_told_apart_by_uuid(monkeypatch):
    monkeypatch.setattr(gpu, "_nvml", FakeNvml)
    assert [(d.gpu_type, d.uuid) for d in gpu.devices(TYPES)] == [("h100", "GPU-1"), ("a10g", "GPU-2")]
    assert gpu.device(1, TYPES).memory_bytes == 24 * GIB


def test_a_device_number_beyond_the_last_is_an_error(monkeypatch):
    monkeypatch.setattr(gpu, "_nvml", FakeNvml)
    with pytest.raises(SettingsError, match="has 2 GPU"):
        gpu.device(2, TYPES)


def test_without_a_gpu_every_number_is_a_cpu(monkeypatch):
    monkeypatch.setattr(gpu, "_nvml", lambda: None)
    assert [(gpu.device(n, TYPES).gpu_type, gpu.device(n, TYPES).index) for n in (0, 1)] == [("cpu", 0), ("cpu", 1)]


def test_a_driver_that_does_not_answer_is_an_error_and_no_cpu(monkeypatch):
    import pynvml

    def broken():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    monkeypatch.setattr(pynvml, "nvmlInit", broken)
    monkeypatch.setattr(gpu.Path, "exists", lambda _: True)
    with pytest.raises(UnavailableError, match="does not answer"):
        gpu.devices(TYPES)
