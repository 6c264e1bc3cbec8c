"""Starts the process that runs a trial's job, and watches and ends it with all its children."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

TRAINER = "celora.tuning.trainer"
RUN_JOB = (sys.executable, "-c", "from celora.cli.app import main; main()", "run-job")
GONE_WITHIN_S = 10.0


class Carrier:
    """Runs ``celora run-job`` for one job.

    Args:
        job_id: Id of the job.
        index: Number of the GPU.
        environment: Environment of the process.
        log: File for its output.
        command: The command, to which the id and the GPU are appended.
    """

    def __init__(
        self, job_id: str, index: int, environment: Mapping[str, str], log: Path, command: Sequence[str] = RUN_JOB
    ) -> None:
        self._seen: dict[int, psutil.Process] = {}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, job_id, "--gpu", str(index)],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def started(self) -> int:
        """Return the number of processes that were seen, the command's own included."""
        return 1 + len(self._seen)

    @property
    def ended(self) -> bool:
        """Return whether the process has exited."""
        return self._process.poll() is not None

    def trainers(self) -> list[psutil.Process]:
        """Find the running trainers; every child that is seen is remembered."""
        found: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                self._seen[child.pid] = child
                if TRAINER in child.cmdline():
                    found.append(child)
        return found

    def wait(self, within_s: float) -> int:
        """Wait for the end of the process; return its exit code."""
        return self._process.wait(timeout=within_s)

    def left(self) -> list[int]:
        """List the ids of the processes that still run."""
        return [pid for pid, process in self._seen.items() if alive(process)] + [self._process.pid] * (not self.ended)

    def end(self) -> None:
        """Kill the process and every child that was seen, and wait for their end."""
        self.trainers()
        if not self.ended:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for process in self._seen.values():
            with contextlib.suppress(psutil.Error):
                process.kill()  # psutil checks that the id still belongs to that process
        psutil.wait_procs(self._seen.values(), timeout=GONE_WITHIN_S)


def alive(process: psutil.Process) -> bool:
    """Check if a process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
