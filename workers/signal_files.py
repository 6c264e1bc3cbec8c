"""Sends signals between the processes of a machine by marker files: drain this worker, cancel this job, stay away.

The record's cancel flag and the lease are the truth. A marker reaches a worker's child within a fraction of a second,
where the record is read at the next heartbeat only. Markers lie below ``CELORA_HOME/run``; their names are made of a
process id or a job's id, never of a path that came from outside.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

LOOKED_S = 60.0


@dataclass(frozen=True)
class Markers:
    """Names, sets and removes the markers of one machine, in one folder."""

    folder: Path

    def drain(self, worker_pid: int) -> Path:
        """Name the marker that exists while the worker with this main process takes no more work."""
        return self.folder / f"drain-{worker_pid}"

    def cancel(self, job_id: str) -> Path:
        """Name the marker that exists while this job is to be stopped."""
        return self.folder / f"cancel-{job_id}"

    def left(self, worker_pid: int) -> Path:
        """Name the marker of a worker that left on request and stays away; it bears the worker's main process."""
        return self.folder / f"left-{worker_pid}"

    def set(self, marker: Path) -> None:
        """Create a marker."""
        self.folder.mkdir(parents=True, exist_ok=True)
        marker.touch()

    @staticmethod
    def clear(marker: Path) -> None:
        """Remove a marker."""
        marker.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove the markers older than ``LOOKED_S``, which every watcher has seen, except those of living processes.

        A request to cancel reaches all machines, and only the machine that runs the job removes its marker itself.
        """
        for file in stale_files(self.folder):
            self.clear(file)
        for marker in [*self.folder.glob("drain-*"), *self.folder.glob("left-*"), *self.folder.glob("cancel-*")]:
            kind, _, named = marker.name.partition("-")
            lives = kind != "cancel" and named.isdigit() and _alive(int(named))
            if not lives and time.time() - _touched(marker) > LOOKED_S:
                self.clear(marker)


def stale_files(folder: Path) -> list[Path]:
    """List the sockets, locks and reports of trainer hosts whose workers are gone (``trainer/hosts.py``)."""
    found = [(path, path.name.removeprefix("host-").partition(".")[0]) for path in sorted(folder.glob("host-*.*"))]
    return [
        path
        for path, owner in found
        if owner.isdigit() and not _alive(int(owner)) and time.time() - _touched(path) > LOOKED_S
    ]


def _touched(marker: Path) -> float:
    try:
        return marker.stat().st_mtime
    except FileNotFoundError:
        return time.time()  # another process removed the marker a moment ago


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
