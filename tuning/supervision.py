"""The trainer's side of being supervised: what asks it to leave, and its end when nobody is there any more.

A thread of its own waits for all of it at once: signals (through the wake-up descriptor, so also while the main thread
is deep in a C call), a cancel line on standard input, and that input's end, which means that the supervisor is gone,
however it went. As a backstop the kernel sends SIGHUP when the supervisor dies (PR_SET_PDEATHSIG); it does so when the
*thread* that started us ends, too, so the parent's id decides. An orphan has a grace to checkpoint in; then its whole
process group is ended, even if a step never returns. A C call that never lets go of the interpreter is ended by
faulthandler's own thread, which needs none.
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

from .kept import Kept

GRACE_S = 60.0
SPARE_S = 5.0
"""faulthandler ends the process so long after our own deadline."""
ASKED = (signal.SIGTERM, signal.SIGINT)
PR_SET_PDEATHSIG = 1


class Supervision:
    """Watches over standard input and signals from ``start`` on.

    Args:
        stop: Set when the process is to leave at the next opportunity.
        requests: Descriptor of the requests.
    """

    def __init__(self, stop: threading.Event, requests: int) -> None:
        self._stop, self._requests = stop, requests
        self.kept = Kept(stop)
        """What the supervisor said about our checkpoints."""
        self._parent = os.getppid()
        self._woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (*ASKED, signal.SIGHUP):
            signal.signal(number, _ignore)  # the watching thread reads which one it was
        _ask_kernel(signal.SIGHUP)
        self._grace_s = GRACE_S
        self.orphaned = False

    def start(self, job: str, grace_s: float = GRACE_S) -> None:
        """Begin to watch.

        Args:
            job: A cancel line counts where it names this job.
            grace_s: Seconds from the supervisor's end to ours, at most.
        """
        self._grace_s = grace_s
        threading.Thread(target=self._watch, args=(job,), daemon=True, name="supervision").start()

    def end(self, code: int) -> None:
        """End the process now; an orphan takes along whatever it started. It does not come back."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        if self.orphaned and os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(code)

    def _watch(self, job: str) -> None:
        buffer = b""
        while not self.orphaned:
            ready, _, _ = select.select([self._requests, self._woken], [], [])
            if self._woken in ready:
                self._signalled(os.read(self._woken, 64))
            if self._requests in ready:
                chunk = os.read(self._requests, 1 << 16)
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    self._obey(line, job)
                self.orphaned = self.orphaned or not chunk
        self._leave_alone()

    def _obey(self, line: bytes, job: str) -> None:
        try:
            message: Any = json.loads(line)
        except ValueError:
            say(f"not a JSON line on standard input, ignored: {line[:80]!r}")
            return
        match message:
            case {"op": "cancel", "job": named} if named == job:
                self._stop.set()
            case {"op": "kept", "job": named, "step": int(step)} if named == job:
                self.kept.tell(step)
            case _:
                pass

    def _signalled(self, numbers: bytes) -> None:
        if any(number in ASKED for number in numbers):
            self._stop.set()
        self.orphaned = signal.SIGHUP in numbers and os.getppid() != self._parent

    def _leave_alone(self) -> None:
        say(f"the supervisor is gone; leaving within {self._grace_s:.0f} s")
        faulthandler.dump_traceback_later(self._grace_s + SPARE_S, exit=True, file=2)
        self._stop.set()
        time.sleep(self._grace_s)
        say("still here after the grace; ended. The stacks of its threads:")
        faulthandler.dump_traceback(file=2)
        self.end(1)


class _Log(io.FileIO):
    """A log never stops the program: what cannot be written is lost (a full disk, a reader that went away)."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(memoryview(data).cast("B"))


def keep_logging() -> None:
    """Standard output and error, line by line, from now on without errors."""
    sys.stdout, sys.stderr = _log(1), _log(2)


def dump_on_request() -> None:
    """SIGUSR1 writes the stacks of all threads to the log, also while a C call holds the interpreter."""
    faulthandler.enable(file=2)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True, chain=False)


def say(words: str) -> None:
    """A line of our own in the job's log."""
    print(f"trainer: {words}", file=sys.stderr)  # noqa: T201


def _log(descriptor: int) -> TextIO:
    raw = io.BufferedWriter(_Log(descriptor, "wb", closefd=False))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _ignore(_number: int, _frame: object) -> None:
    pass


def _ask_kernel(number: int) -> None:
    """Have a signal sent when the parent dies; Linux alone knows how."""
    if sys.platform == "linux":
        set_option: Callable[..., int] = ctypes.CDLL(None).prctl
        set_option(PR_SET_PDEATHSIG, number)
