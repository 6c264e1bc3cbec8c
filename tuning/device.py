# pyright: basic
# (torch and NVML ship incomplete types)
"""What the device can do and how full it is. CUDA is asked through torch and NVML; the CPU through the process."""

import resource
import warnings

import psutil
import torch

from .protocol import Dtype


def compute_dtype(device: str) -> Dtype:
    """What this machine computes well in.

    bf16 on CUDA of compute capability 8 and up, fp16 before; on a CPU fp32 unless it has bf16 instructions (without
    them bf16 is 25 times slower than fp32).
    """
    if device == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability()[0] >= 8 else "float16"  # noqa: PLR2004  (Ampere)
    return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"  # noqa: SLF001  (no public name)


def total_memory_bytes(device: str) -> int:
    """Memory of the device: the GPU's, or the machine's."""
    return torch.cuda.mem_get_info()[1] if device == "cuda" else psutil.virtual_memory().total


def in_use(device: str) -> tuple[int | None, int | None]:
    """GPU memory that this process holds (bytes) and the GPU's utilisation (percent); both None on a CPU."""
    if device != "cuda":
        return None, None
    return torch.cuda.memory_allocated(), _utilisation()


def peak_memory_bytes(device: str) -> int:
    """The most memory this process held: on the GPU, or resident in RAM."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_facts(device: str) -> dict[str, int]:
    """How full the device is: in all, in use by anybody, held by this process, and the most it held."""
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        own = torch.cuda.memory_reserved()
        peak = torch.cuda.max_memory_reserved()
        return {"total_bytes": total, "used_bytes": total - free, "own_bytes": own, "peak_bytes": peak}
    machine, own = psutil.virtual_memory(), psutil.Process().memory_info().rss
    return {
        "total_bytes": machine.total,
        "used_bytes": machine.total - machine.available,
        "own_bytes": own,
        "peak_bytes": peak_memory_bytes(device),
    }


def versions(device: str) -> dict[str, str]:
    """What a resumed run should find again to be exact: library versions and the device's name."""
    from importlib.metadata import version  # noqa: PLC0415  (only here)

    libraries = ("celora", "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes")
    return {**{library: version(library) for library in libraries}, "device": name(device)}


def name(device: str) -> str:
    """What kind of device it is: the GPU's name, or the instructions of the CPU that torch uses."""
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu {torch.backends.cpu.get_cpu_capability()}"


def _utilisation() -> int | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return int(torch.cuda.utilization())
        except (ModuleNotFoundError, RuntimeError, OSError):  # a driver without NVML: the figure is missing, no more
            return None
