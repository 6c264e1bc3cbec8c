"""The limits of a process that reads foreign data: memory, CPU time, size of a file, wall time, one rendered row.

Two layers. A thread looks ten times a second and ends the process with a sentence. The kernel's own limits stand a
little further out, for code that never lets the thread run (one C call that holds the interpreter) and for allocators
that end the process themselves; what the kernel ends has no last word, and whoever started the process tells it from
the signal (``workers.process``). Only soft limits are set, so that ``lifted`` can take them off while a base model is
fetched or converted, which needs more of everything and is no foreign data.

Without ``impose``, in a notebook or a test, everything here does nothing.
"""

import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from ..settings.errors import BaseModelError, CeloraError, LimitError
from .protocol import Limits

LOOK_S = 0.1
SILENT_S = 120
"""Seconds after which the kernel ends a process whose watching thread could not run."""

SPARE_S = 3
"""The kernel's limits stand so far behind the thread's."""

MAPPINGS_BYTES = 16 * 2**30
"""Address space beside the process's own memory: what libraries map. transformers with torch's CPU build takes
1.2 GiB (measured); CUDA builds map several GiB of code and reserve more."""

OVERHEAD_BYTES = 256 * 2**20
"""What a trainer needs before it has read a row: libraries' own data, threads' stacks."""

_UNLIMITED = resource.RLIM_INFINITY


class Guard:
    """Watches one process.

    Args:
        limits: What it may take.
        end: Tells the error and ends the process; it does not come back.
    """

    def __init__(self, limits: Limits, end: Callable[[CeloraError], None]) -> None:
        self.limits, self._end = limits, end
        self.doing = "starting"
        self.template = ""
        self._rendering_since: float | None = None
        self._rendered = False
        self._paused_at: tuple[float, float] | None = None
        self._off_s, self._off_cpu_s = time.monotonic(), 0.0
        self._copies_cpu_s = 0.0
        self._staged: set[Path] = set()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Set the kernel's limits and begin to look."""
        self._set()
        threading.Thread(target=self._watch, daemon=True, name="limits").start()

    def add_cpu(self, seconds: float) -> None:
        """CPU time that a copy of this process took for it."""
        self._copies_cpu_s += seconds

    def stop(self) -> None:
        """Look no more; the process may say its last word."""
        with self._lock:
            self._paused_at = (time.monotonic(), time.process_time())
            self._unset()

    @contextmanager
    def lifted(self) -> Generator[None]:
        """No limits inside; the time in it does not count."""
        self.stop()
        try:
            yield
        finally:
            with self._lock:
                at, cpu = self._paused_at or (time.monotonic(), time.process_time())
                self._off_s += time.monotonic() - at
                self._off_cpu_s += time.process_time() - cpu
                self._paused_at = None
                self._set()

    def __enter__(self) -> None:
        """A template begins to render; this happens for each row, so the kernel is told only after a pause."""
        self._rendering_since = time.monotonic()
        if not self._rendered:
            self._rendered = True
            self._set_alarm()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._rendering_since = None
        if kind is MemoryError:
            raise BaseModelError(
                f"the chat template {self.template} needs more memory for one conversation than there is.",
                hint="Mend its loops, or name another one: template = alpaca or chatml.",
            )

    @contextmanager
    def staging(self, folder: Path) -> Generator[None]:
        """A folder that is removed when the process is ended meanwhile."""
        self._staged.add(folder)
        try:
            yield
        finally:
            self._staged.discard(folder)

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_S)
            with self._lock:
                if self._paused_at is not None:
                    continue
                self._rendered = self._rendering_since is not None
                self._set_alarm()
                error = self._exceeded()
                if error is None:
                    continue
                for folder in self._staged:
                    shutil.rmtree(folder, ignore_errors=True)
                self._end(error)

    def _exceeded(self) -> CeloraError | None:
        since, limits = self._rendering_since, self.limits
        if since is not None and time.monotonic() - since > limits.render_s:
            return BaseModelError(
                f"the chat template {self.template} did not finish one conversation within {limits.render_s} s.",
                hint="Mend its loops, or name another one: template = alpaca or chatml.",
            )
        if limits.cpu_s and time.process_time() + self._copies_cpu_s - self._off_cpu_s > limits.cpu_s:
            return LimitError(f"{self._told} more than {limits.cpu_s} s of CPU time.", hint=hint_of("cpu_s"))
        if limits.wall_s and time.monotonic() - self._off_s > limits.wall_s:
            return LimitError(f"{self._told} more than {limits.wall_s} s.", hint=hint_of("wall_s"))
        return None

    @property
    def _told(self) -> str:
        return f"preparing the dataset takes (while it did: {self.doing})"

    def _set(self) -> None:
        limits = self.limits
        if limits.memory_bytes:
            _soft(resource.RLIMIT_DATA, limits.memory_bytes + OVERHEAD_BYTES)
            _soft(resource.RLIMIT_AS, limits.memory_bytes + MAPPINGS_BYTES)
        if limits.file_bytes:
            _soft(resource.RLIMIT_FSIZE, limits.file_bytes)
        if limits.cpu_s:
            _soft(resource.RLIMIT_CPU, int(self._off_cpu_s) + limits.cpu_s + SPARE_S)
        _soft(resource.RLIMIT_CORE, 0)
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Put the kernel's alarm off; it rings when the watching thread could not run for so long."""
        signal.setitimer(signal.ITIMER_REAL, self.limits.render_s + SPARE_S if self._rendered else SILENT_S)

    @staticmethod
    def _unset() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
            _soft(kind, _UNLIMITED)


_guard: Guard | None = None


def impose(limits: Limits, end: Callable[[CeloraError], None]) -> Guard:
    """Limit this process from now on; arguments as of ``Guard``."""
    global _guard  # noqa: PLW0603  (a process has one set of limits, as the kernel sees it)
    _guard = Guard(limits, end)
    _guard.start()
    return _guard


def impose_again() -> None:
    """Limit a forked copy of this process as its parent is; the parent's watching thread is not in it."""
    global _guard  # noqa: PLW0603  (as above)
    if _guard:
        _guard = Guard(_guard.limits, end_with(lambda _error: None))  # the parent meets the same, and tells
        _guard.start()


def add_cpu(seconds: float) -> None:
    """CPU time that a copy of this process took counts as this one's."""
    if _guard:
        _guard.add_cpu(seconds)


def lifted() -> AbstractContextManager[None]:
    """No limits inside, and its time does not count: a base model is fetched or converted."""
    return _guard.lifted() if _guard else nullcontext()


def staging(folder: Path) -> AbstractContextManager[None]:
    """A folder that must not outlive a process that is ended."""
    return _guard.staging(folder) if _guard else nullcontext()


def fetched(out: Path) -> Path:
    """Where remote datasets lie while ``out`` is made of them."""
    return out.with_name(out.name + ".sources")


def partial(out: Path) -> Path:
    """Where what is to become ``out`` is written; never left behind, whoever has to remove it."""
    return out.with_name(out.name + ".partial")


def leftovers(out: Path) -> tuple[Path, ...]:
    """What a process that the kernel ended may have left beside ``out``."""
    return partial(out), fetched(out)


def rendering(template: str) -> AbstractContextManager[None]:
    """A chat template, which is foreign code, renders one conversation inside."""
    if _guard is None:
        return nullcontext()
    _guard.template = template
    return _guard


def hint_of(limit: str) -> str:
    """What to do when a limit is in the way."""
    return f"Split or mend the dataset, or let an operator raise CELORA_PREPARE_{limit.upper()}."


def memory_error(limits: Limits, doing: str) -> LimitError:
    """What a MemoryError becomes."""
    share = f"{limits.memory_bytes / 2**30:.1f} GiB" if limits.memory_bytes else "this machine has"
    return LimitError(
        f"preparing the dataset takes more memory than {share} (while it did: {doing}).",
        hint=hint_of("memory_bytes"),
    )


def _soft(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    beyond = value == _UNLIMITED or (hard != _UNLIMITED and value > hard)
    resource.setrlimit(kind, (hard if beyond else value, hard))


def end_with(tell: Callable[[CeloraError], None]) -> Callable[[CeloraError], None]:
    """An ``end`` for ``Guard``: tell the error, then leave with its exit code, whatever the main thread does."""

    def end(error: CeloraError) -> None:
        tell(error)
        os._exit(error.exit_code)

    return end
