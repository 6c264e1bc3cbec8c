"""Watches the supervisor of a trainer process for requests to stop, and ends the process when the supervisor is gone.

One thread waits for three sources at once: signals (through the wake-up descriptor, so also while the main thread is in
a C call), the lines about each job on standard input, and the end of standard input. The end of input means that the
supervisor is gone for any reason. As a backstop the kernel sends SIGHUP when the supervisor dies (PR_SET_PDEATHSIG).
The kernel also sends it when only the *thread* that started this process ends, so the parent's id decides. An orphan
has a grace period for a checkpoint; then its whole process group is killed, even if a step never returns.
faulthandler's own thread ends a C call that never releases the interpreter, since that thread needs no interpreter.
"""

import contextlib
import ctypes
import faulthandler
import io
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from .checkpoint_ack import CheckpointAcks

GRACE_S = 60.0
SPARE_S = 5.0
"""Seconds after our own deadline at which faulthandler ends the process."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
PR_SET_PDEATHSIG = 1


class JobWatch:
    """The supervisor's requests for one job.

    Attributes:
        stop: Set when the job must end at the next opportunity.
        acks: The supervisor's acknowledgements of the job's checkpoints.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.acks = CheckpointAcks(self.stop)


class ParentWatch:
    """Watches standard input and signals from ``start`` on, for every job of this process.

    Args:
        requests: Descriptor of the requests.
    """

    def __init__(self, requests: int) -> None:
        self._requests = requests
        self._jobs: dict[str, JobWatch] = {}
        self._parent = os.getppid()
        self._woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (*STOP_SIGNALS, signal.SIGHUP):
            signal.signal(number, _ignore)  # the watching thread reads the signal's number
        _request_death_signal(signal.SIGHUP)
        self._grace_s = GRACE_S
        self.orphaned = False

    def add_job(self, job: str) -> JobWatch:
        """Watch for lines that name this job; signals and the supervisor's end apply to every job."""
        return self._jobs.setdefault(job, JobWatch())

    def drop_job(self, job: str) -> None:
        """Stop watching for a job that is over."""
        self._jobs.pop(job, None)

    def stop_all(self) -> None:
        """Ask every job to end."""
        for job in list(self._jobs.values()):
            job.stop.set()

    def start(self, grace_s: float = GRACE_S) -> None:
        """Start the watching thread.

        Args:
            grace_s: Most seconds between the supervisor's end and the end of this process.
        """
        self._grace_s = grace_s
        threading.Thread(target=self._watch, daemon=True, name="parent watch").start()

    def end(self, code: int) -> None:
        """End the process now; an orphan also kills the processes that it started. The call never returns."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        if self.orphaned and os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(code)

    def _watch(self) -> None:
        buffer = b""
        while not self.orphaned:
            ready, _, _ = select.select([self._requests, self._woken], [], [])
            if self._woken in ready:
                self._take_signals(os.read(self._woken, 64))
            if self._requests in ready:
                chunk = os.read(self._requests, 1 << 16)
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    self._take_line(line)
                self.orphaned = self.orphaned or not chunk
        self._leave_as_orphan()

    def _take_line(self, line: bytes) -> None:
        try:
            message: Any = json.loads(line)
        except ValueError:
            say(f"not a JSON line on standard input, ignored: {line[:80]!r}")
            return
        match message:
            case {"op": "cancel", "job": str(name)} if name in self._jobs:
                self._jobs[name].stop.set()
            case {"op": "kept", "job": str(name), "step": int(step)} if name in self._jobs:
                self._jobs[name].acks.confirm(step)
            case _:
                pass

    def _take_signals(self, numbers: bytes) -> None:
        if any(number in STOP_SIGNALS for number in numbers):
            self.stop_all()
        self.orphaned = signal.SIGHUP in numbers and os.getppid() != self._parent

    def _leave_as_orphan(self) -> None:
        say(f"the supervisor is gone; leaving within {self._grace_s:.0f} s")
        faulthandler.dump_traceback_later(self._grace_s + SPARE_S, exit=True, file=2)
        self.stop_all()
        time.sleep(self._grace_s)
        say("still here after the grace; ended. The stacks of its threads:")
        faulthandler.dump_traceback(file=2)
        self.end(1)


class _Log(io.FileIO):
    """A log that never stops the program: it drops text that cannot be written (a full disk, a closed reader)."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(memoryview(data).cast("B"))


def keep_logging() -> None:
    """Replace standard output and error by streams that write line by line and raise no errors."""
    sys.stdout, sys.stderr = _log(1), _log(2)


def dump_on_request() -> None:
    """Register SIGUSR1 to write the stacks of all threads to the log, also while a C call holds the interpreter."""
    faulthandler.enable(file=2)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True, chain=False)


def say(words: str) -> None:
    """Write a line of the trainer program into the job's log."""
    print(f"trainer: {words}", file=sys.stderr)  # noqa: T201


def _log(descriptor: int) -> TextIO:
    raw = io.BufferedWriter(_Log(descriptor, "wb", closefd=False))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _ignore(_number: int, _frame: object) -> None:
    pass


def _request_death_signal(number: int) -> None:
    """Request a signal from the kernel for the parent's death; only Linux offers it."""
    if sys.platform == "linux":
        set_option: Callable[..., int] = ctypes.CDLL(None).prctl
        set_option(PR_SET_PDEATHSIG, number)
