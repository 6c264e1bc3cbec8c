"""The processes of an installation on this machine: started, watched, restarted, stopped.

Each runs in a session of its own, so that Ctrl-C reaches only us and we stop them in order; and each is told by the
kernel to end when we die, however we die (Linux).
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

from .logs import size_of

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
RESTART_S = (1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S = 60.0


@dataclass(kw_only=True)
class Service:
    """One process: what it is called, how it starts, and how it does."""

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
        """Start it; its output is appended to its log."""
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
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  (one system call)
            )
        self.started_at, self.restart_at, self.left = time.monotonic(), None, False

    def rotate(self) -> None:
        """Move what its log holds to ``NAME.log.1`` once it is too large; the process goes on writing to the same."""
        if self.log_bytes and size_of(self.log) > self.log_bytes:
            shutil.copyfile(self.log, self.log.with_name(f"{self.log.name}.1"))
            os.truncate(self.log, 0)

    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self.process is not None and self.alive():
            self.process.send_signal(number)

    def end(self) -> None:
        """Kill whatever is left of its process group."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Services:
    """All of them together.

    Args:
        cwd: Their working directory.
        stays_away: Whether the process with this id left because it was asked to, and is not to be started again.
    """

    def __init__(self, cwd: Path, stays_away: Callable[[int], bool] = lambda _pid: False) -> None:
        self._cwd, self._stays_away = cwd, stays_away
        self.all: list[Service] = []

    def start(self, service: Service) -> None:
        """Start one and watch it from now on."""
        service.start(self._cwd)
        self.all.append(service)

    def look(self) -> None:
        """Restart what died, later each time it dies soon after a start."""
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
        """Ask all to leave, wait for them, then kill what is left."""
        for service in self.all:
            service.tell(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        try:
            while time.monotonic() < deadline and any(service.alive() for service in self.all):
                time.sleep(0.05)
        finally:
            for service in self.all:
                service.end()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
