"""Marker files: how a worker's main process tells its child, within a fraction of a second, to stop what it carries.

The record's cancel flag and the lease are the truth; a marker only saves the wait for the next heartbeat. They lie
below ``CELORA_HOME/run`` and name a process or a job, never a path that came from outside.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

LOOKED_S = 60.0


@dataclass(frozen=True)
class Markers:
    """The markers of one machine."""

    folder: Path

    def drain(self, worker_pid: int) -> Path:
        """Stands while the worker with this main process takes no more work."""
        return self.folder / f"drain-{worker_pid}"

    def cancel(self, job_id: str) -> Path:
        """Stands while this job is to be stopped."""
        return self.folder / f"cancel-{job_id}"

    def left(self, worker_pid: int) -> Path:
        """Stands when the worker with this main process left because somebody asked it to, and is to stay away."""
        return self.folder / f"left-{worker_pid}"

    def set(self, marker: Path) -> None:
        """Put a marker up."""
        self.folder.mkdir(parents=True, exist_ok=True)
        marker.touch()

    @staticmethod
    def clear(marker: Path) -> None:
        """Take a marker down."""
        marker.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Take down the markers of processes that are gone; whoever watches them has had a while to look."""
        for marker in [*self.folder.glob("drain-*"), *self.folder.glob("left-*")]:
            pid = marker.name.partition("-")[2]
            if not (pid.isdigit() and _alive(int(pid))) and time.time() - _touched(marker) > LOOKED_S:
                self.clear(marker)


def _touched(marker: Path) -> float:
    try:
        return marker.stat().st_mtime
    except FileNotFoundError:
        return time.time()  # taken down a moment ago


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
