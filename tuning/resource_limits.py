"""Limits a process that reads foreign data: memory, CPU time, size of a file, wall time, one rendered row.

There are two layers. A thread checks the use ten times a second and ends the process with an error in words. The
kernel's own limits are slightly higher, for code that never lets the thread run (one C call that holds the interpreter)
and for allocators that end the process themselves. A process that the kernel ends reports nothing; its supervisor reads
the cause from the signal (workers/trainer/supervisor.py). Only soft limits are set, so that ``lifted`` can remove them
while a base model is fetched or converted, which needs more of every resource and is no foreign data.

Unusual: the guard in force is a context variable, so other work of the process has no guard; but the kernel's limits
apply to the whole process. So a request under limits has a process of its own. Without ``impose``, in a notebook or a
test, this module does nothing.
"""

import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path

from ..errors import BaseModelError, CeloraError, LimitError
from .protocol import Limits

LOOK_S = 0.1
SILENT_S = 120
"""Seconds after which the kernel ends a process whose watching thread could not run."""

SPARE_S = 3
"""Seconds by which the kernel's limits exceed the thread's."""

MAPPINGS_BYTES = 16 * 2**30
"""Address space that libraries map beside the process's own memory. transformers with torch's CPU build maps 1.2 GiB
(measured); CUDA builds map several GiB of code and reserve more."""

OVERHEAD_BYTES = 256 * 2**20
"""Memory that a trainer needs before its first row: libraries' own data, threads' stacks."""

_UNLIMITED = resource.RLIM_INFINITY


class Guard:
    """Watches the process on behalf of one request.

    Args:
        limits: The largest resources of the request.
        end: Reports the error and ends the process; the call never returns.
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
        self._over = False

    def start(self) -> None:
        """Set the kernel's limits and start the watching thread."""
        self._set()
        threading.Thread(target=self._watch, daemon=True, name="limits").start()

    def add_cpu(self, seconds: float) -> None:
        """Count CPU time of a forked copy that worked for this request."""
        self._copies_cpu_s += seconds

    def stop(self) -> None:
        """Stop watching; the process may report its end."""
        with self._lock:
            self._paused_at = (time.monotonic(), time.process_time())
            self._unset()

    def close(self) -> None:
        """Stop watching for good; the thread ends."""
        self._over = True
        self.stop()

    @contextmanager
    def lifted(self) -> Generator[None]:
        """Remove the limits for the block; the block's time does not count."""
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
        """Record that a template begins to render; as this runs for each row, it sets the alarm only after a pause."""
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
        """Remove a folder when the process is ended during the block."""
        self._staged.add(folder)
        try:
            yield
        finally:
            self._staged.discard(folder)

    def _watch(self) -> None:
        while not self._over:
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
            return LimitError(f"{self._subject} more than {limits.cpu_s} s of CPU time.", hint=hint_of("cpu_s"))
        if limits.wall_s and time.monotonic() - self._off_s > limits.wall_s:
            return LimitError(f"{self._subject} more than {limits.wall_s} s.", hint=hint_of("wall_s"))
        return None

    @property
    def _subject(self) -> str:
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
        """Postpone the kernel's alarm, which fires when the watching thread could not run for so long."""
        signal.setitimer(signal.ITIMER_REAL, self.limits.render_s + SPARE_S if self._rendered else SILENT_S)

    @staticmethod
    def _unset() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
            _soft(kind, _UNLIMITED)


_guard: ContextVar[Guard | None] = ContextVar("guard", default=None)


def impose(limits: Limits, end: Callable[[CeloraError], None]) -> Guard:
    """Limit this process from now on; the arguments are those of ``Guard``."""
    guard = Guard(limits, end)
    _guard.set(guard)
    guard.start()
    return guard


@contextmanager
def imposed(limits: Limits, end: Callable[[CeloraError], None]) -> Generator[None]:
    """Limit this process during a block; the arguments are those of ``Guard``."""
    guard = Guard(limits, end)
    token = _guard.set(guard)
    guard.start()
    try:
        yield
    finally:
        guard.close()
        _guard.reset(token)


def impose_again() -> None:
    """Limit a forked copy of this process like its parent, whose watching thread is not in the copy."""
    if guard := _guard.get():
        impose(guard.limits, end_with(lambda _error: None))  # the parent meets the same limit, and reports it


def add_cpu(seconds: float) -> None:
    """Count CPU time of a forked copy as this process's."""
    if guard := _guard.get():
        guard.add_cpu(seconds)


def lifted() -> AbstractContextManager[None]:
    """Remove the limits for a block that fetches or converts a base model; the block's time does not count."""
    guard = _guard.get()
    return guard.lifted() if guard else nullcontext()


def staging(folder: Path) -> AbstractContextManager[None]:
    """Remove a folder when the process is ended during the block."""
    guard = _guard.get()
    return guard.staging(folder) if guard else nullcontext()


def fetched(out: Path) -> Path:
    """Return the folder of remote datasets while ``out`` is made from them."""
    return out.with_name(out.name + ".sources")


def partial(out: Path) -> Path:
    """Return the folder that will become ``out``; this process or its supervisor always removes an unfinished one."""
    return out.with_name(out.name + ".partial")


def leftovers(out: Path) -> tuple[Path, ...]:
    """Return the folders that a process which the kernel ended may have left beside ``out``."""
    return partial(out), fetched(out)


def rendering(template: str) -> AbstractContextManager[None]:
    """Limit the time of a block in which a chat template, which is foreign code, renders one conversation."""
    guard = _guard.get()
    if guard is None:
        return nullcontext()
    guard.template = template
    return guard


def hint_of(limit: str) -> str:
    """Return the hint for an exceeded limit."""
    return f"Split or mend the dataset, or let an operator raise CELORA_PREPARE_{limit.upper()}."


def memory_error(limits: Limits, doing: str) -> LimitError:
    """Return the error that replaces a MemoryError."""
    share = f"{limits.memory_bytes / 2**30:.1f} GiB" if limits.memory_bytes else "this machine has"
    return LimitError(
        f"preparing the dataset takes more memory than {share} (while it did: {doing}).",
        hint=hint_of("memory_bytes"),
    )


def _soft(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    beyond = value == _UNLIMITED or (hard != _UNLIMITED and value > hard)
    resource.setrlimit(kind, (hard if beyond else value, hard))


def end_with(report: Callable[[CeloraError], None]) -> Callable[[CeloraError], None]:
    """Make an ``end`` for ``Guard``: report the error, then exit with its code without waiting for the main thread."""

    def end(error: CeloraError) -> None:
        report(error)
        os._exit(error.exit_code)

    return end
