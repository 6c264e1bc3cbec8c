"""Finding devices. NVML is the outside world here, so a stand-in answers for it through the real calls."""

import types

import pytest

from celora.settings.errors import SettingsError, UnavailableError
from celora.settings.gpus import GIB, gpu_catalogue, identify
from celora.settings.settings import GpuOverride
from celora.workers import gpu

TYPES = gpu_catalogue({})


class FakeNvml(types.SimpleNamespace):
    """Two cards, answered as pynvml does."""

    NVMLError = RuntimeError
    cards = (("NVIDIA H100 80GB HBM3", 80 * GIB, "GPU-1"), ("NVIDIA A10G", 24 * GIB, "GPU-2"))

    def nvmlInit(self):  # noqa: N802
        pass

    def nvmlShutdown(self):  # noqa: N802
        pass

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return self.cards[handle][0]

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return types.SimpleNamespace(total=self.cards[handle][1])

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        return self.cards[handle][2]


@pytest.mark.parametrize(
    ("name", "gib", "found"),
    [
        ("NVIDIA H100 80GB HBM3", 80, "h100"),
        ("NVIDIA H200", 141, "h200"),
        ("NVIDIA A100-SXM4-80GB", 80, "a100-80"),
        ("NVIDIA A100-PCIE-40GB", 40, "a100-40"),
        ("NVIDIA L4", 24, "l4"),
        ("NVIDIA L40S", 48, "l40s"),
        ("Tesla T4", 16, "t4"),
        ("NVIDIA A10G", 24, "a10g"),
        ("NVIDIA GeForce RTX 4090", 24, "rtx-4090"),
        ("NVIDIA B200", 180, "b200"),
    ],
)
def test_each_card_of_the_catalogue_is_recognised(name, gib, found):
    assert identify(name, gib * GIB, TYPES).name == found


def test_an_unknown_card_is_refused_with_the_lines_to_add():
    with pytest.raises(SettingsError, match=r'\[gpus.my-gpu\] match = \["quadro k600"\] memory_gib = 1'):
        identify("Quadro K600", GIB, TYPES)


def test_an_operator_adds_a_card_and_sets_a_price():
    types_ = gpu_catalogue(
        {"k600": GpuOverride(match=["quadro k600"], memory_gib=1), "h100": GpuOverride(price_per_hour=9.0)}
    )
    assert identify("Quadro K600", GIB, types_).name == "k600"
    assert types_["h100"].price_per_hour == 9.0


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
