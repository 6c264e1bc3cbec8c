"""Starts, watches, restarts and stops the processes of an installation on this machine.

Each process runs in a session of its own, so that Ctrl-C reaches only the parent, which stops the processes in order.
On Linux the kernel ends each process when the parent dies for any reason.
"""

import contextlib
import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..trainer.log_files import size_of

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
RESTART_S = (1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S = 60.0


@dataclass(kw_only=True)
class Service:
    """One process, its command and its state."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float | None = None
    failures: int = field(default=0)
    left: bool = False
    log_bytes: int = 50 * 2**20

    def start(self, cwd: Path) -> None:
        """Start the process; its output is appended to its log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.rotate()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=cwd,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent(),  # noqa: PLW1509  (one system call)
            )
        self.started_at, self.restart_at, self.left = time.monotonic(), None, False

    def rotate(self) -> None:
        """Move the log's content to ``NAME.log.1`` once it is too large; the process keeps writing to the same file."""
        if self.log_bytes and size_of(self.log) > self.log_bytes:
            shutil.copyfile(self.log, self.log.with_name(f"{self.log.name}.1"))
            os.truncate(self.log, 0)

    def alive(self) -> bool:
        """Return whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        """Send the process a signal, if it runs."""
        if self.process is not None and self.alive():
            self.process.send_signal(number)

    def end(self) -> None:
        """Kill the remaining processes of the group."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Services:
    """Starts, watches and stops several processes.

    Args:
        cwd: Working directory of the processes.
        stays_away: Returns True if the process with this id exited on request, and must not be restarted.
    """

    def __init__(self, cwd: Path, stays_away: Callable[[int], bool] = lambda _pid: False) -> None:
        self._cwd, self._stays_away = cwd, stays_away
        self.all: list[Service] = []

    def start(self, service: Service) -> None:
        """Start a process and watch it from now on."""
        service.start(self._cwd)
        self.all.append(service)

    def restart_ended(self) -> None:
        """Restart a process that died; the pause grows each time it dies soon after a start."""
        now = time.monotonic()
        for service in self.all:
            if service.alive():
                service.rotate()
                continue
            if service.left:
                continue
            if service.process is not None and self._stays_away(service.process.pid):
                service.left = True
                logger.warning("%s was drained and stays away until its next start", service.name)
                continue
            if service.restart_at is None:
                service.failures = 0 if now - service.started_at > STEADY_S else service.failures + 1
                pause_s = RESTART_S[min(service.failures, len(RESTART_S) - 1)]
                service.restart_at = now + pause_s
                code = service.process.returncode if service.process else None
                logger.warning("%s ended (exit code %s); starting it again in %.0f s", service.name, code, pause_s)
            elif now >= service.restart_at:
                service.end()
                service.start(self._cwd)

    def stop(self, grace_s: float) -> None:
        """Ask every process to exit, wait for them, then kill those that still run."""
        for service in self.all:
            service.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        try:
            while time.monotonic() < deadline and any(service.alive() for service in self.all):
                time.sleep(0.05)
        finally:
            for service in self.all:
                service.end()


def end_with_parent() -> Callable[[], None] | None:
    """Return the function that a child runs before its program, so that the kernel ends it when this process dies.

    On other systems than Linux there is none. The C library is loaded here and not in the child, where another thread's
    lock may be held for ever.
    """
    if sys.platform != "linux":
        return None
    library, parent = ctypes.CDLL(None), os.getpid()

    def ask() -> None:
        library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before the call
            os._exit(1)

    return ask
