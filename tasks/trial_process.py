"""The process that carries a trial's job, and what it starts; seen, waited for, and ended whatever happens."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

TRAINER = "celora.tuning.trainer"
RUN_JOB = (sys.executable, "-c", "from celora.cli.app import main; main()", "run-job")
GONE_WITHIN_S = 10.0


class Carrier:
    """``celora run-job`` for one job.

    Args:
        job_id: The job.
        index: Number of the GPU.
        environment: Of the process.
        log: Takes what it prints.
    """

    def __init__(self, job_id: str, index: int, environment: Mapping[str, str], log: Path) -> None:
        self._seen: dict[int, psutil.Process] = {}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*RUN_JOB, job_id, "--gpu", str(index)],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def started(self) -> int:
        """How many processes there were, itself included."""
        return 1 + len(self._seen)

    @property
    def ended(self) -> bool:
        """Whether it has left."""
        return self._process.poll() is not None

    def trainers(self) -> list[psutil.Process]:
        """The trainers that run now; every process that was met is remembered."""
        found: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                self._seen[child.pid] = child
                if TRAINER in child.cmdline():
                    found.append(child)
        return found

    def wait(self, within_s: float) -> int:
        """Wait for its end; its exit code."""
        return self._process.wait(timeout=within_s)

    def left(self) -> list[int]:
        """Ids of the processes that still run."""
        return [pid for pid, process in self._seen.items() if alive(process)] + [self._process.pid] * (not self.ended)

    def end(self) -> None:
        """Kill whatever still runs of it, and wait until it is gone."""
        self.trainers()
        if not self.ended:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for process in self._seen.values():
            with contextlib.suppress(psutil.Error):
                process.kill()  # psutil looks whether the id is still that process's
        psutil.wait_procs(self._seen.values(), timeout=GONE_WITHIN_S)


def alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
