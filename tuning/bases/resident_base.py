# pyright: basic
# (torch ships incomplete types)
"""Keeps one loaded base in memory for the next run of this process that wants the same.

A run gets the model by ``load_model``, which has the signature of ``bases.load_model``. After the run ``take_back``
restores the model and checks that its weights are those that were loaded. A base that is wanted next replaces the
present one, which is freed first: two bases are never in memory together.

A run may take files of the base only as far as its own request permits, so the checks of ``bases.folder`` (allowed
bases, allowed folders, revision) are made for each run, also when the weights are in memory already.
"""

import gc
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ...errors import DeviceError
from ..protocol import Base, Emit, HubAccess
from . import base as bases
from .module_state import ModuleState, digests, size_bytes


@dataclass(frozen=True)
class _Wanted:
    base: Base
    cache: Path
    quantization: Literal["nf4", "none"]
    compute_dtype: str
    device: str


@dataclass
class Holding:
    """A base in memory.

    Attributes:
        base: The resolved base.
        quantization: ``nf4`` or ``none``.
        compute_dtype: The compute dtype.
        memory_bytes: The memory of its tensors.
        loaded_at: The time of its load, in seconds of the epoch.
        runs: The number of runs that used it.
    """

    base: Base
    quantization: Literal["nf4", "none"]
    compute_dtype: str
    memory_bytes: int
    loaded_at: float
    runs: int = 0


class ResidentBase:
    """Loads bases for the runs of one process, one run after another, and keeps the last one.

    Attributes:
        holding: The base in memory; None where there is none.
    """

    def __init__(self) -> None:
        self.holding: Holding | None = None
        self._wanted: _Wanted | None = None
        self._model: Any = None
        self._unquantized: list[str] = []
        self._state: ModuleState | None = None
        self._digests: dict[str, tuple[Any, ...]] = {}

    def load_model(
        self,
        base: Base,
        cache: Path,
        hub: HubAccess,
        *,
        quantization: Literal["nf4", "none"],
        compute_dtype: str,
        device: str,
        emit: Emit,
    ) -> tuple[Any, list[str]]:
        """Return the model that ``bases.load_model`` loads, from memory where it is there; the arguments are the same.

        Raises:
            BaseModelError: The base is not complete in the cache, or this request may not use it.
        """
        wanted = _Wanted(base, cache, quantization, compute_dtype, device)
        bases.folder(base, cache, hub, emit)
        if wanted != self._wanted:
            self._load(wanted, hub, emit)
        assert self.holding is not None  # noqa: S101  (loaded before)
        self.holding.runs += 1
        return self._model, list(self._unquantized)

    def take_back(self) -> None:
        """Restore the model after a run, and check its weights.

        Raises:
            DeviceError: The weights are not those that were loaded; the base is dropped.
        """
        if self._state is None:
            return
        self._state.restore()
        found = digests(self._model)
        changed = [name for name, value in self._digests.items() if found.get(name) != value]
        if not changed:
            return
        assert self.holding is not None  # noqa: S101  (there is a state)
        name = self.holding.base.name
        self.drop()
        raise DeviceError(
            f"The weights of the base {name} changed in memory while a run used it: {changed[0]} is not what was "
            f"loaded ({len(changed)} of {len(found)} tensors).",
            hint="The run is repeated by a new process. If it comes back, look at the machine's memory.",
        )

    def drop(self) -> None:
        """Free the memory of the base."""
        device = self._wanted.device if self._wanted else "cpu"
        self.holding = self._wanted = self._model = self._state = None
        self._digests = {}
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()

    def _load(self, wanted: _Wanted, hub: HubAccess, emit: Emit) -> None:
        self.drop()
        model, unquantized = bases.load_model(
            wanted.base,
            wanted.cache,
            hub,
            quantization=wanted.quantization,
            compute_dtype=wanted.compute_dtype,
            device=wanted.device,
            emit=emit,
        )
        self._model, self._unquantized, self._wanted = model, unquantized, wanted
        self._state, self._digests = ModuleState(model), digests(model)
        self.holding = Holding(
            wanted.base, wanted.quantization, wanted.compute_dtype, size_bytes(model), loaded_at=time.time()
        )
