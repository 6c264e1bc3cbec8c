"""Lists this machine's devices by NVML; a machine without a GPU has devices of type ``cpu``.

Devices are pinned by UUID, since NVML and CUDA number them differently. A driver that is installed and does not answer
is an error: a worker that fell back to the CPU would take a GPU job and train it very slowly.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ..errors import SettingsError, UnavailableError
from ..settings.gpus import GpuType, identify


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device that a worker can be pinned to.

    Attributes:
        index: Its number on this machine.
        gpu_type: The catalogue's name of its type.
        uuid: NVML's UUID; empty for a CPU.
        name: Its name as the driver reports it.
        memory_bytes: Device memory, or main memory for a CPU.
    """

    index: int
    gpu_type: str
    uuid: str
    name: str
    memory_bytes: int


def devices(types: Mapping[str, GpuType]) -> list[Device]:
    """List every GPU of this machine; an empty list where there is none.

    Raises:
        UnavailableError: There is an NVIDIA driver and it does not answer.
        SettingsError: A GPU is not in the catalogue; the message holds the lines to add.
    """
    nvml = _nvml()
    if nvml is None:
        return []
    try:
        return [_device(nvml, index, types) for index in range(nvml.nvmlDeviceGetCount())]
    finally:
        nvml.nvmlShutdown()


def device(index: int, types: Mapping[str, GpuType]) -> Device:
    """Return the device with this number; on a machine without a GPU each number is a CPU device.

    Raises:
        SettingsError: The machine has GPUs, but none with this number.
    """
    found = devices(types)
    if not found:
        return Device(index=index, gpu_type="cpu", uuid="", name="CPU", memory_bytes=psutil.virtual_memory().total)
    if index >= len(found):
        raise SettingsError(
            f"--gpu {index}: this machine has {len(found)} GPU(s), numbered from 0.",
            hint="See `nvidia-smi -L` for the list.",
        )
    return found[index]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The use of a device's memory as NVML reports it at one moment.

    Attributes:
        used_bytes: All used bytes, without the driver's own reserve.
        processes: Id and bytes of each known process; None where NVML does not report the bytes.
    """

    used_bytes: int
    processes: tuple[tuple[int, int | None], ...]


def reading(uuid: str) -> Reading | None:
    """Read a device's memory; None on a machine without NVIDIA devices.

    Raises:
        UnavailableError: The driver does not answer for this device.
    """
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        listed = [*_running(nvml, handle, "Compute"), *_running(nvml, handle, "Graphics")]
    except nvml.NVMLError as error:
        raise UnavailableError(f"NVML can't read the memory of {uuid} ({error}).", hint="Run `nvidia-smi`.") from error
    finally:
        nvml.nvmlShutdown()
    processes = {int(one.pid): one.usedGpuMemory for one in listed}
    return Reading(used_bytes=int(memory.used), processes=tuple(processes.items()))


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The NVIDIA driver of this machine.

    Attributes:
        version: For example ``570.86.15``.
        cuda: The newest CUDA that it supports, for example ``(12, 8)``.
    """

    version: str
    cuda: tuple[int, int]


def driver() -> Driver | None:
    """Read the driver's versions; None on a machine without NVIDIA devices.

    Raises:
        UnavailableError: There is an NVIDIA driver and it does not answer.
    """
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        cuda = int(nvml.nvmlSystemGetCudaDriverVersion_v2())  # 12080 is 12.8
        return Driver(version=str(nvml.nvmlSystemGetDriverVersion()), cuda=(cuda // 1000, cuda % 1000 // 10))
    except nvml.NVMLError as error:
        raise UnavailableError(f"NVML does not tell its driver ({error}).", hint="Run `nvidia-smi`.") from error
    finally:
        nvml.nvmlShutdown()


def _running(nvml: Any, handle: Any, kind: str) -> list[Any]:
    """List the processes of a kind; none where the device (a slice of a GPU, say) does not report them."""
    try:
        return list(getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses")(handle))
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_NoPermission):
        return []


def _device(nvml: Any, index: int, types: Mapping[str, GpuType]) -> Device:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = str(nvml.nvmlDeviceGetName(handle))
    memory_bytes = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    return Device(
        index=index,
        gpu_type=identify(name, memory_bytes, types).name,
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        name=name,
        memory_bytes=memory_bytes,
    )


def _nvml() -> Any:
    """Initialise NVML and return it; None where this machine has no NVIDIA device at all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package warns about its own older name
        import pynvml as nvml  # noqa: PLC0415  (only a worker needs it)  # pyright: ignore[reportMissingTypeStubs]
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if Path("/proc/driver/nvidia/version").exists() or any(Path("/dev").glob("nvidia[0-9]*")):
            raise UnavailableError(
                f"this machine has an NVIDIA device, but its driver does not answer ({error}).",
                hint="Run `nvidia-smi`; mend the driver before starting a worker here.",
            ) from error
        return None
    return nvml


@dataclass(frozen=True, kw_only=True)
class Load:
    """The load of a device at one moment.

    Attributes:
        uuid: NVML's UUID.
        gpu_type: The catalogue's name of its type.
        memory_bytes: Its memory.
        used_bytes: The used part of its memory, by any process.
        utilisation: Percent of NVML's last sample period; None where the device does not report it.
    """

    uuid: str
    gpu_type: str
    memory_bytes: int
    used_bytes: int
    utilisation: int | None


def loads(types: Mapping[str, GpuType]) -> list[Load]:
    """Measure the load of each GPU of this machine; an empty list where there is none.

    Raises:
        UnavailableError: There is an NVIDIA driver and it does not answer.
    """
    nvml = _nvml()
    if nvml is None:
        return []
    try:
        return [_load(nvml, index, types) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        raise UnavailableError(f"NVML does not answer ({error}).", hint="Run `nvidia-smi`.") from error
    finally:
        nvml.nvmlShutdown()


def _load(nvml: Any, index: int, types: Mapping[str, GpuType]) -> Load:
    known, handle = _device(nvml, index, types), nvml.nvmlDeviceGetHandleByIndex(index)
    try:
        utilisation = int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except nvml.NVMLError_NotSupported:  # a slice of a device
        utilisation = None
    used_bytes = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
    return Load(
        uuid=known.uuid,
        gpu_type=known.gpu_type,
        memory_bytes=known.memory_bytes,
        used_bytes=used_bytes,
        utilisation=utilisation,
    )
