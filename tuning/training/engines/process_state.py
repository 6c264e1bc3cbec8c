# pyright: basic
# (torch and accelerate ship incomplete types)
"""Separates the process-wide state of libraries by engine, so that one process can drive several engines in turns.

Random numbers (Python, numpy, torch, CUDA) and accelerate's singletons belong to the process. During a call of an
engine the engine's own state replaces the process's, and the former state is restored afterwards. So each engine draws
the numbers that it would draw alone, and computes in the mixed precision of its construction.
"""

import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

SINGLETONS = (PartialState, AcceleratorState, GradientState)


class ProcessState:
    """The random numbers and accelerate's state of one engine, copied from the process at the first use.

    Args:
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._own: tuple[Any, ...] | None = None

    @contextmanager
    def installed(self) -> Generator[None]:
        """Install this engine's state in the process for the duration of the block."""
        before = self._take()
        if self._own is not None:
            self._put(self._own)
        try:
            yield
        finally:
            self._own = self._take()
            self._put(before)

    def recorded(self) -> Callable[[], None]:
        """Record the state of the process as it is, and return a function that restores it."""
        state = self._take()
        return lambda: self._put(state)

    def _take(self) -> tuple[Any, ...]:
        cuda = torch.cuda.get_rng_state() if self._device == "cuda" else None
        shared = tuple(dict(singleton._shared_state) for singleton in SINGLETONS)  # noqa: SLF001  (no public name)
        return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda, shared  # noqa: NPY002  (theirs)

    def _put(self, state: tuple[Any, ...]) -> None:
        python, numpy, cpu, cuda, shared = state
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002  (the process's own, which libraries draw from)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
        for singleton, values in zip(SINGLETONS, shared, strict=True):
            singleton._shared_state.clear()  # noqa: SLF001  (as above)
            singleton._shared_state.update(values)  # noqa: SLF001
