"""Translates errors of torch, CUDA and the machine into celora's errors; without torch, so that any module may use it.

There are three kinds of failure, and each needs another remedy: the device's memory (smaller passes), the machine's
memory (another machine, smaller data), the device itself (a new process, and attention to the worker). The error's type
decides where a specific type exists. Many libraries raise a bare RuntimeError, and then its message decides. A
device-side assert is a failure of the device too, whatever its cause: the process can compute nothing more.
"""

import errno
import re
import sys
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ..errors import CeloraError, DeviceError, HostMemoryError, OutOfMemoryError, TrainingError
from ..storage.disk_space import room
from .recipe import Recipe

DEVICE_MEMORY = re.compile(
    r"(CUDA|HIP) out of memory|(CUDA|HIP)( driver)? error: out of memory|Triton Error \[\w+\]: out of memory"
    r"|CU(BLAS|DNN|SOLVER|SPARSE)_STATUS_ALLOC_FAILED"
    r"|Error out of memory at line \d+ in file"  # bitsandbytes, which prints this and ends the process
)
HOST_MEMORY = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|Cannot allocate memory|std::bad_alloc"
    r"|memory allocation of \d+ bytes failed"
)
DEVICE = re.compile(
    r"(CUDA|HIP)( driver)? error|Triton Error \[|device-side assert|uncorrectable ECC|GPU is lost|\bNVML"
    r"|\bCU(BLAS|DNN|FFT|SOLVER|SPARSE|RAND)_|\bcu(BLAS|DNN|FFT|SOLVER|SPARSE|RAND) error|NVRTC"
    r"|cudaGetDeviceCount|cudaErrorDevicesUnavailable|No CUDA GPUs are available|NVIDIA driver|CUDA driver"
    r"|CUDA unknown error|not compiled with CUDA|torch\.cuda\.is_available\(\) is False"
    r"|Error \w[^\n]* at line \d+ in file [^\n]*\.cu\b"  # bitsandbytes' kernels
)
SPEAKERS = (RuntimeError, OSError, AssertionError)
"""Types of device errors that have no type of their own."""


@dataclass
class Situation:
    """The present activity of a process, for the explanation of a failure.

    Attributes:
        device: ``cpu`` or ``cuda``.
        folder: The folder that the process writes to; None where it writes nothing.
        doing: loading, training, evaluating, saving or generating.
        step: The current optimizer step.
        recipe: The settings of the run.
    """

    device: str
    folder: Path | None = None
    doing: str = "loading"
    step: int = 0
    recipe: Recipe | None = None

    def facts(self) -> dict[str, Any]:
        """Return the numbers that a decision about another attempt needs."""
        facts: dict[str, Any] = {"phase": self.doing, "step": self.step, "device": self.device}
        if self.recipe is not None:
            names = ("micro_batch", "accumulation", "gradient_checkpointing", "max_length")
            facts |= {name: getattr(self.recipe, name) for name in names}
        return facts


def kind_of(error: BaseException, device: str) -> type[TrainingError] | None:
    """Return the kind of failure of an error; None where it is none of the three kinds.

    Args:
        error: The exception; its causes count too.
        device: The model's device. On ``cpu`` the memory of torch's own allocator is the device's.
    """
    for one in _chain(error):
        text, names = str(one), {kind.__name__ for kind in type(one).__mro__}
        if "OutOfMemoryError" in names or (isinstance(one, RuntimeError) and DEVICE_MEMORY.search(text)):
            return OutOfMemoryError
        if isinstance(one, MemoryError) or (isinstance(one, OSError) and one.errno == errno.ENOMEM):
            return HostMemoryError
        if isinstance(one, RuntimeError) and HOST_MEMORY.search(text):
            return OutOfMemoryError if device == "cpu" else HostMemoryError
        if names & {"AcceleratorError", "NVMLError"} or (isinstance(one, SPEAKERS) and DEVICE.search(text)):
            return DeviceError
    return None


def kind_of_log(tail: str) -> type[TrainingError] | None:
    """Return the kind of failure by the end of a log, where a library ended the process without an exception."""
    for pattern, kind in ((DEVICE_MEMORY, OutOfMemoryError), (HOST_MEMORY, HostMemoryError), (DEVICE, DeviceError)):
        if pattern.search(tail):
            return kind
    return None


@contextmanager
def explained(situation: Situation) -> Generator[None]:
    """Translate errors of torch, safetensors, CUDA and Python into celora's; celora's own errors pass unchanged.

    Raises:
        OutOfMemoryError, HostMemoryError, DeviceError: By the result of ``kind_of``, with the situation's facts.
        DiskFullError: The situation's folder has no space left.
    """
    writing: AbstractContextManager[None] = nullcontext() if situation.folder is None else room(situation.folder, 0)
    try:
        with writing:
            yield
    except CeloraError:
        raise
    except Exception as error:
        kind = kind_of(error, situation.device)
        if kind is None:
            raise
        raise _error(kind, situation, error) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__


def _error(kind: type[TrainingError], situation: Situation, error: BaseException) -> TrainingError:
    words = str(error).strip().splitlines()
    detail = f"{type(error).__name__}: {words[0]}" if words and kind is DeviceError else (words or ["no detail"])[0]
    facts = situation.facts()
    if kind is OutOfMemoryError:
        facts |= _device_memory(situation.device)
        sizes = f" (micro_batch {facts['micro_batch']}, max_length {facts['max_length']})" if situation.recipe else ""
        message = f"The {situation.device} device ran out of memory while {situation.doing}{sizes}: {detail}"
        return kind(message, hint=_smaller(situation), facts=facts)
    if kind is HostMemoryError:
        facts |= _host_memory()
        free = f"{facts['host_available_bytes'] / 2**30:.1f} of {facts['host_total_bytes'] / 2**30:.1f} GiB are free"
        message = f"The machine ran out of memory while {situation.doing} ({free}): {detail}"
        return kind(message, hint="Use a machine with more memory, or run fewer jobs on it at once.", facts=facts)
    return kind(
        f"The {situation.device} device or its driver failed while {situation.doing}: {detail}",
        hint="A fresh process may help once; if it comes back, look at the GPU: nvidia-smi, dmesg.",
        facts=facts,
    )


def _smaller(situation: Situation) -> str:
    if situation.doing == "loading":
        return "Use quantization nf4, a smaller base, or a GPU type with more memory."
    return (
        "Halve micro_batch and double accumulation (the result stays the same), set gradient_checkpointing to true, "
        "or lower max_length."
    )


def _device_memory(device: str) -> dict[str, int]:
    """Return the device's memory use; empty where torch was not loaded, or CUDA can no longer report it."""
    if "torch" not in sys.modules:
        return {}
    from . import device as devices  # noqa: PLC0415  (it imports torch)

    try:
        return devices.memory_facts(device)
    except SPEAKERS:
        return {}


def _host_memory() -> dict[str, int]:
    machine = psutil.virtual_memory()
    return {
        "host_total_bytes": machine.total,
        "host_available_bytes": machine.available,
        "resident_bytes": psutil.Process().memory_info().rss,
    }
