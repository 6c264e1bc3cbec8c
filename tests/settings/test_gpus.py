"""The catalogue of GPU types: its shipped rows, an operator's changes, and the recognition of a device."""

import pytest

from celora.errors import SettingsError
from celora.settings.gpus import CATALOGUE, GIB, GpuType, gpu_catalogue, identify
from celora.settings.settings import GpuOverride


def test_every_shipped_type_can_be_planned_with():
    names = [gpu.name for gpu in CATALOGUE]
    assert len(set(names)) == len(names)
    for gpu in CATALOGUE:
        assert gpu.name == gpu.name.lower()
        assert min(gpu.memory_bytes, gpu.peak_tflops, gpu.price_per_hour) > 0
        assert gpu.name == "cpu" or (gpu.match and gpu.bandwidth_gb_s > 0)
        assert all(part and part == part.lower() for part in gpu.match)


@pytest.mark.parametrize("gpu", [gpu for gpu in CATALOGUE if gpu.match], ids=lambda gpu: gpu.name)
def test_no_shipped_type_hides_another(gpu):
    assert identify(f"NVIDIA {' '.join(gpu.match)}", gpu.memory_bytes, gpu_catalogue({})) == gpu


@pytest.mark.parametrize(
    ("device", "memory_gib", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", 80, "a100-80"),
        ("NVIDIA A100-SXM4-40GB", 40, "a100-40"),
        ("NVIDIA A100 80GB PCIe", 80, "a100-80"),
        ("NVIDIA L40S", 45, "l40s"),
        ("NVIDIA L4", 22, "l4"),
        ("Tesla T4", 15, "t4"),
        ("NVIDIA A10G", 22, "a10g"),
        ("NVIDIA GeForce RTX 4090", 24, "rtx-4090"),
        ("NVIDIA H100 80GB HBM3", 80, "h100"),
        ("NVIDIA H200", 141, "h200"),
    ],
)
def test_a_device_is_known_by_its_name(device, memory_gib, name):
    assert identify(device, memory_gib * GIB, gpu_catalogue({})).name == name


def test_of_two_types_that_match_alike_the_nearest_memory_wins():
    types = {
        name: GpuType(name=name, memory_bytes=gib * GIB, peak_tflops=1, price_per_hour=1, match=("x9",))
        for name, gib in (("x9-16", 16), ("x9-32", 32))
    }
    assert identify("NVIDIA X9", 31 * GIB, types).name == "x9-32"
    assert identify("NVIDIA X9", 15 * GIB, types).name == "x9-16"


def test_an_unknown_device_is_refused_with_the_lines_to_add():
    with pytest.raises(SettingsError, match=r"'NVIDIA Z1' \(12 GiB\) is not in the catalogue") as refused:
        identify("NVIDIA Z1", 12 * GIB, gpu_catalogue({}))
    assert 'match = ["nvidia z1"] memory_gib = 12' in refused.value.hint


def test_an_operator_changes_only_what_is_named():
    changed = gpu_catalogue({"l4": GpuOverride(price_per_hour=0)})["l4"]
    shipped = gpu_catalogue({})["l4"]
    assert changed.price_per_hour == 0
    assert (changed.memory_bytes, changed.match, changed.peak_tflops) == (
        shipped.memory_bytes, shipped.match, shipped.peak_tflops,
    )  # fmt: skip


def test_an_operators_own_type_is_found_by_its_name():
    types = gpu_catalogue({"z1": GpuOverride(match=["Z1"], memory_gib=12)})
    assert identify("NVIDIA Z1", 12 * GIB, types) == GpuType(
        name="z1", memory_bytes=12 * GIB, peak_tflops=0, price_per_hour=0, match=("z1",)
    )


@pytest.mark.parametrize("given", [{"memory_gib": 12}, {"match": ["z1"]}, {"price_per_hour": 1}])
def test_a_new_type_needs_a_name_and_its_memory(given):
    with pytest.raises(SettingsError, match=r"gpus\.z1 in celora\.toml .* without match or memory_gib") as refused:
        gpu_catalogue({"z1": GpuOverride(**given)})
    assert "[gpus.z1]" in refused.value.hint
