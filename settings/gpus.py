"""Lists the GPU types with their memory, speed and price, and recognises a device by its name.

Memory, its rate and dense bf16 peaks are from the data sheets of 2026-11 (NVIDIA product briefs of each card). Prices
are a starting point in US dollars an hour, near public on-demand offers of the same month; operators set their own
under ``[gpus.NAME]`` in celora.toml.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .settings import GpuOverride

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class GpuType:
    """One type of device.

    Attributes:
        name: Lower case; its queue is ``gpu.<name>``.
        memory_bytes: Device memory; for ``cpu`` the share of main memory that a job may plan with.
        peak_tflops: Dense bf16 peak (fp16 where a card has no bf16), 10^12 operations a second.
        bandwidth_gb_s: Rate of the device memory, 10^9 bytes a second; 0 where unknown.
        price_per_hour: US dollars for each hour that a job holds the slot.
        match: Parts of the device name that NVML reports, lower case; all must occur.
    """

    name: str
    memory_bytes: int
    peak_tflops: float
    price_per_hour: float
    bandwidth_gb_s: float = 0
    match: tuple[str, ...] = ()


def _type(name: str, memory_gib: float, tflops: float, bandwidth: float, price: float, *match: str) -> GpuType:
    return GpuType(
        name=name,
        memory_bytes=int(memory_gib * GIB),
        peak_tflops=tflops,
        bandwidth_gb_s=bandwidth,
        price_per_hour=price,
        match=match,
    )


# name, memory (GiB), peak (TFLOP/s), bandwidth (GB/s), price (US dollars an hour), parts of the device name
CATALOGUE: tuple[GpuType, ...] = (
    _type("cpu", 8, 0.2, 0, 0.05),
    _type("t4", 16, 65, 320, 0.53, "t4"),
    _type("l4", 24, 121, 300, 0.80, "l4"),
    _type("a10g", 24, 70, 600, 1.01, "a10"),  # NVIDIA's A10G sheet for AWS G5; the A10, which is found as one, has 125
    _type("rtx-4090", 24, 165, 1008, 0.60, "rtx", "4090"),
    _type("l40s", 48, 362, 864, 1.80, "l40s"),
    _type("a100-40", 40, 312, 1555, 2.00, "a100", "40gb"),
    _type("a100-80", 80, 312, 2039, 2.50, "a100", "80gb"),
    _type("h100", 80, 989, 3350, 3.50, "h100"),
    _type("h200", 141, 989, 4800, 4.50, "h200"),
    _type("b200", 180, 2250, 8000, 6.50, "b200"),
)


def gpu_catalogue(overrides: "Mapping[str, GpuOverride]") -> dict[str, GpuType]:
    """Build the catalogue of an installation: the shipped one, changed and extended by its settings.

    Raises:
        SettingsError: A new type lacks its memory or the parts of its device name.
    """
    types = {gpu.name: gpu for gpu in CATALOGUE}
    for name, change in overrides.items():
        known = types.get(name)
        if known is None:
            if change.memory_gib is None or not change.match:
                raise SettingsError(
                    f"gpus.{name} in celora.toml describes a new GPU type without match or memory_gib.",
                    hint=_lines_to_add(name, "the name that nvidia-smi prints"),
                )
            known = GpuType(name=name, memory_bytes=0, peak_tflops=0, price_per_hour=0)
        types[name] = replace(
            known,
            match=tuple(part.lower() for part in change.match) or known.match,
            memory_bytes=known.memory_bytes if change.memory_gib is None else int(change.memory_gib * GIB),
            price_per_hour=known.price_per_hour if change.price_per_hour is None else change.price_per_hour,
        )
    return types


def identify(device_name: str, memory_bytes: int, types: "Mapping[str, GpuType]") -> GpuType:
    """Find the type of a device in the catalogue.

    Of the types whose parts all occur in the device name, the one with the longest parts wins, then the one with the
    nearest memory.

    Args:
        device_name: As NVML reports it, for example ``NVIDIA A100-SXM4-80GB``.
        memory_bytes: The device's memory.
        types: The installation's catalogue.

    Raises:
        SettingsError: No type matches; the message holds the lines to add to celora.toml.
    """
    words = device_name.lower()
    found = [gpu for gpu in types.values() if gpu.match and all(part in words for part in gpu.match)]
    if not found:
        raise SettingsError(
            f"the GPU {device_name!r} ({memory_bytes / GIB:.0f} GiB) is not in the catalogue.",
            hint=_lines_to_add("my-gpu", device_name.lower(), memory_bytes / GIB),
        )
    return min(found, key=lambda gpu: (-sum(map(len, gpu.match)), abs(gpu.memory_bytes - memory_bytes)))


def _lines_to_add(name: str, match: str, memory_gib: float = 24) -> str:
    return (
        f'Add to celora.toml in CELORA_HOME: [gpus.{name}] match = ["{match}"] memory_gib = {memory_gib:.0f} '
        "price_per_hour = 1.0"
    )
