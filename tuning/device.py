# pyright: basic
# (torch and NVML ship incomplete types)
"""Reads the capabilities and the memory of the device: CUDA through torch and NVML, the CPU through the process."""

import contextlib
import os
import resource
import warnings
from pathlib import Path

import psutil
import torch

from .protocol import Dtype

MATH_MODES = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE")
"""Environment variables that choose the code paths of MKL and oneDNN."""


def compute_dtype(device: str) -> Dtype:
    """Choose the compute dtype that is fast on this machine.

    bf16 on CUDA of compute capability 8 and up, fp16 before; on a CPU fp32 unless it has bf16 instructions (without
    them bf16 is 25 times slower than fp32).
    """
    if device == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability()[0] >= 8 else "float16"  # noqa: PLR2004  (Ampere)
    return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"  # noqa: SLF001  (no public name)


def total_memory_bytes(device: str) -> int:
    """Return the memory of the device: the GPU's, or the machine's."""
    return torch.cuda.mem_get_info()[1] if device == "cuda" else psutil.virtual_memory().total


def in_use(device: str) -> tuple[int | None, int | None]:
    """Return the GPU memory of this process (bytes) and the GPU's utilisation (percent); both None on a CPU."""
    if device != "cuda":
        return None, None
    return torch.cuda.memory_allocated(), _utilisation()


def peak_memory_bytes(device: str) -> int:
    """Return the largest memory that this process held: on the GPU, or resident in RAM."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak(device: str) -> None:
    """Begin a new measurement of ``peak_memory_bytes``, in a process that carries one run after another."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):  # a system without /proc: the peak is that of the process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def memory_facts(device: str) -> dict[str, int]:
    """Return the device's memory in bytes: in all, used by all processes, held by this process, and its peak."""
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
    """Return the library versions and the device's name, which a resumed run needs unchanged to be exact."""
    from importlib.metadata import version  # noqa: PLC0415  (only here)

    libraries = ("celora", "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes")
    return {**{library: version(library) for library in libraries}, "device": name(device)}


def arithmetic(device: str) -> dict[str, str]:
    """Return the settings of the math libraries that determine the last bits of a CPU's results; empty for a GPU.

    MKL divides a product of matrices by the number of threads and by its rows, unless ``MKL_CBWR`` fixes one code path
    (``AVX2,STRICT``); oneDNN chooses its kernels by ``ONEDNN_MAX_CPU_ISA``.
    """
    if device != "cpu":
        return {}
    modes = [f"{name}={os.environ[name]}" for name in MATH_MODES if os.environ.get(name)]
    return {"threads": str(torch.get_num_threads()), "math_mode": " ".join(modes) or "default"}


def name(device: str) -> str:
    """Return the kind of the device: the GPU's name, or the CPU instructions that torch uses."""
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu {torch.backends.cpu.get_cpu_capability()}"


def _utilisation() -> int | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return int(torch.cuda.utilization())
        except (ModuleNotFoundError, RuntimeError, OSError):  # a driver without NVML: only the figure is missing
            return None
