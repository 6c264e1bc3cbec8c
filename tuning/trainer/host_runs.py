# pyright: basic
# (torch ships incomplete types)
"""Carries the runs of a resident trainer host: with its base, isolated from each other, and with nothing left behind.

After each run the base is restored and checked (resident_base.py), and everything else of the run is freed: adapter,
optimizer, caches of the device, memory that the allocator of C keeps. A run finds the process as the first run did.

With several slots runs take turns (``training/turns.py``). Each has a structure of its own over the weights of the base
(``module_state.twin``), so an adapter, a hook or a flag of one run is not there for another. The base has one dtype and
quantization at a time: a run that wants others waits at its load until the runs inside have ended.
"""

import ctypes
import gc
import os
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from ...errors import CeloraError, DeviceError, HostMemoryError, OutOfMemoryError
from .. import device as devices
from ..bases import base as bases
from ..bases.module_state import twin
from ..bases.resident_base import ResidentBase
from ..protocol import Base, HubAccess, Request, TrainRequest
from ..training.engines.run_isolation import Isolation, RunState
from ..training.turns import Turn, Turns
from .host import Carried, HostedRun
from .host_admission import Device, may_join, refusal, refused
from .host_messages import HOST_PROTOCOL, Final, Greeting, Opening, Refused, Resident
from .stages import EXIT_INTERNAL, Circumstances, answer_request

BROKEN: tuple[type[CeloraError], ...] = (DeviceError, OutOfMemoryError, HostMemoryError)
"""Errors after which the process carries no other run."""
POLL_S = 0.1


class HostRuns:
    """Carries the runs of one process.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: The CPU threads of every request, as ``protocol`` has them.
        generation: The host's generation.
        say: Writes a line into the host's log.
        slots: The runs that are inside at one time.

    Attributes:
        broken: True when no later run may enter the process.
    """

    def __init__(
        self,
        device: Literal["cpu", "cuda"],
        threads: int,
        generation: str,
        say: Callable[[str], None],
        slots: int = 1,
    ) -> None:
        self._device: Literal["cpu", "cuda"] = device
        self._threads, self._generation, self._say = threads, generation, say
        self._base, self._isolation = ResidentBase(), Isolation(device)
        self._versions, self._started_at = devices.versions(device), time.time()
        self._tensors, self._slots, self._turns = 0, slots, Turns()
        self._lent: dict[HostedRun, tuple[Any, ...]] = {}
        self._wanting: set[HostedRun] = set()
        self.broken = False

    def refusal(self, opening: Opening, request: Request) -> Refused | None:
        """Return the reason why the host does not carry a request."""
        return refusal(opening, request, device=self._device, threads=self._threads)

    def carry(self, run: HostedRun) -> Final | Refused:
        """Carry one run to its end; refuse it where its base is not ready in the cache."""
        began = time.monotonic()
        if not _is_ready(run.request):
            return refused("base")
        devices.reset_peak(self._device)
        if self._slots == 1:
            with self._isolation.run(run.log):
                code = self._answer(run, Circumstances(self._base.load_model, self._base.take_back))
            self._clean_up(run)
        else:
            code = self._take_turns(run)
        self.broken = self.broken or (run.events.failed_as is not None and issubclass(run.events.failed_as, BROKEN))
        self._say(f"{run.name} ended with exit code {code} after {time.monotonic() - began:.1f} s")
        return Final(exit=code, resident=self._resident())

    def may_join(self, run: HostedRun, inside: Sequence[HostedRun]) -> bool:
        """Return whether a run may enter beside those inside."""
        held = self._base.holding
        device = Device(self._total_bytes, held.memory_bytes if held else 0, self._slots)
        entries = [(other.opening, other.request.base) for other in inside]
        return not self._wanting and may_join((run.opening, run.request.base), entries, device)

    def greeting(self, runs: list[str]) -> Greeting:
        """Return the state of the process."""
        cuda = self._device == "cuda"
        return Greeting(
            host=HOST_PROTOCOL,
            generation=self._generation,
            pid=os.getpid(),
            versions=self._versions,
            device=self._device,
            threads=self._threads,
            started_at=self._started_at,
            memory_bytes=torch.cuda.memory_reserved() if cuda else psutil.Process().memory_info().rss,
            resident=self._resident(),
            tensors=self._tensors,
            runs=runs,
        )

    def drop_base(self) -> None:
        """Free the memory of the base."""
        self._base.drop()
        _trim()

    @property
    def _total_bytes(self) -> int:
        return devices.total_memory_bytes(self._device)

    def _take_turns(self, run: HostedRun) -> int:
        """Carry one run of several: each part of it during a turn, with its own state of the process."""
        state = RunState(self._device, run.log)
        turn = self._turns.join(state, run.opening.weight)
        run.turn, run.events.device_s = turn, lambda: turn.share_s
        load_model: Any = partial(self._lend, run, turn)
        turn.take()
        code = self._answer(run, Circumstances(load_model, self._base.take_back, turn))
        state.remove()
        self._clean_up(run)
        self._lent.pop(run, None)
        error = run.events.failed_as
        if not self.broken and not (error is not None and issubclass(error, DeviceError)):
            turn.release()  # otherwise nobody works here any more: the host ends
        self._turns.leave(turn)
        state.close()
        return code

    def _lend(
        self, run: HostedRun, turn: Turn, base: Base, cache: Path, hub: HubAccess, **wanted: Any
    ) -> tuple[Any, list[str]]:
        """Return a structure of the run's own over the weights of the base; the signature is that of ``load_model``."""
        kind = (base.model_dump_json(), cache, wanted["quantization"], wanted["compute_dtype"], wanted["device"])
        try:
            while any(other != kind for other in self._lent.values()):
                self._wanting.add(run)
                with turn.away():
                    run.watch.stop.wait(POLL_S)
                run.events.raise_if_interrupted()
        finally:
            self._wanting.discard(run)
        self._lent[run] = kind
        model, unquantized = self._base.load_model(base, cache, hub, **wanted)
        return twin(model), unquantized

    def _answer(self, run: HostedRun, parts: Circumstances) -> int:
        request = _offline(run.request)
        if self._slots > 1 and isinstance(request, TrainRequest) and not request.device_memory_bytes:
            part = max(self._total_bytes // self._slots, run.opening.memory_bytes)
            request = request.model_copy(update={"device_memory_bytes": part})
        try:
            return answer_request(request, run.events, run.watch.stop, parts)
        except BaseException as error:  # noqa: BLE001  (a library's exit, or the panic of a library in Rust, is the run's)
            traceback.print_exc()
            message = f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
            hint = "The job's log has the details."
            run.events.emit("failed", error={"code": "internal", "message": message, "hint": hint})
            return EXIT_INTERNAL

    def _clean_up(self, run: HostedRun) -> None:
        """Free everything of a run but the base, which is checked where the run itself has not done so."""
        try:
            self._base.take_back()
        except DeviceError as error:
            self._say(str(error))
            self.broken = True
        gc.collect()
        if self._lent.keys() <= {run}:
            self._tensors = sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())
        if self._device == "cuda":
            torch.cuda.empty_cache()
        _trim()

    def _resident(self) -> Resident | None:
        held = self._base.holding
        return held and Resident(
            base=held.base.name,
            revision=held.base.revision,
            quantization=held.quantization,
            compute_dtype=held.compute_dtype,
            memory_bytes=held.memory_bytes,
            runs=held.runs,
            loaded_at=held.loaded_at,
        )


def _offline(request: Carried) -> Carried:
    """Return the request without the right to download a base or to run its code."""
    hub = request.hub.model_copy(update={"offline": True, "remote_code_bases": []})
    return request.model_copy(update={"hub": hub})


def _is_ready(request: Carried) -> bool:
    """Return whether the base lies in the cache as it is loaded; a host fetches and converts no foreign files."""
    try:
        bases.folder(request.base, Path(request.cache_dir), _offline(request).hub, _refuse_work)
    except (CeloraError, _WorkNeededError):
        return False
    return True


class _WorkNeededError(Exception):
    """A base is not ready."""


def _refuse_work(event: str, **_: object) -> None:
    """Raise where a base would be fetched or converted, which an event announces."""
    raise _WorkNeededError(event)


def _trim() -> None:
    """Give the memory that C's allocator keeps back to the system; only GNU's C library has the function."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
