"""Starts a trainer process in a session of its own, exchanges lines with it, and stops it for certain.

The trainer's standard input stays open while the worker lives; when the worker dies in any way, the kernel closes it,
and the trainer exits. Events come on a pipe of their own; the prints of libraries go to the job's log.
"""

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ...settings.redaction import redactor
from .environment import inherited, of_its_threads
from .forked import AVAILABLE, Pipes, WarmStart, fork
from .log_files import cap

logger = logging.getLogger(__name__)

LOG_BYTES = 100 * 10**6
"""Default size above which the middle of a log is cut out."""
PROGRAM = ("-m", "celora.tuning.trainer")
"""Python's arguments for the trainer program."""


class TrainerProcess:
    """Runs ``python -m celora.tuning.trainer``.

    Args:
        request: The request that the trainer carries out.
        log: File to which the trainer's output is appended.
        environment: Variables beside the worker's own, which are passed without secrets; the job's secrets are here.
        log_bytes: Size above which the middle of the log is cut out; 0: never.
        warm: Start through the fork server (``forked``), unless the job has secrets; None: a new process.
    """

    def __init__(
        self,
        request: BaseModel,
        log: Path,
        environment: Mapping[str, str] | None = None,
        log_bytes: int = LOG_BYTES,
        *,
        warm: WarmStart | None = None,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log, self._log_bytes = log, log_bytes
        self._buffer = b""
        self._events, theirs = os.pipe()
        threads: int = getattr(request, "threads", 0)
        variables = {**inherited(), **of_its_threads(threads), **(environment or {})}
        requests, self._requests = os.pipe()
        with log.open("ab") as output:
            pipes = Pipes(requests, output.fileno(), theirs)
            forked = fork(PROGRAM, variables, warm, pipes) if warm and AVAILABLE and not environment else None
            self._process = forked or _new_process(variables, pipes)
        os.close(requests)
        os.close(theirs)
        self._tell(request.model_dump_json().encode())

    @property
    def pid(self) -> int:
        """The process id, which is also the id of the process group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; None while the process runs, negative for the signal that ended it."""
        return self._process.poll()

    def events(self, timeout_s: float) -> list[dict[str, Any]] | None:
        """Return the events that arrive within the time; None after the last event. Cut the log if it is too large.

        Secrets in events are masked: events are written to the record, the queue and logs, and they may quote rows and
        errors that hold a secret.
        """
        cap(self._log, self._log_bytes)
        readable, _, _ = select.select([self._events], [], [], timeout_s)
        if not readable:
            return []
        chunk = os.read(self._events, 1 << 16)
        if not chunk:
            return None
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        hide = redactor()
        return [hide.data(json.loads(line)) for line in lines if line]

    def kept(self, checkpoint: Mapping[str, Any]) -> None:
        """Confirm that an event's checkpoint is uploaded, or that its upload failed; the trainer may wait for that."""
        self._tell(json.dumps({"op": "kept", "job": checkpoint.get("job"), "step": checkpoint["step"]}).encode())

    def stop(self) -> None:
        """Ask the trainer to checkpoint at the next step boundary and exit."""
        if self.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    def dump_stacks(self) -> None:
        """Make the trainer write the stacks of all its threads to the job's log (SIGUSR1), also while it hangs."""
        if self.returncode is None:
            self._process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """Kill the trainer's process group at once, and wait until the group is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        while self.group_alive():
            time.sleep(0.02)

    def abandon(self) -> None:
        """End a run whose results nobody wants any more: a process of its own is killed at once."""
        self.kill()

    def group_alive(self) -> bool:
        """Return whether a process of the trainer's group still runs."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def close(self, grace_s: float = 5.0) -> int:
        """Wait for the trainer's end, kill the rest of its group, and return the exit code."""
        try:
            self._process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            logger.warning("trainer %d did not leave within %.0f s; killed", self.pid, grace_s)
        self.kill()
        os.close(self._events)
        self.close_requests()
        cap(self._log, self._log_bytes)
        return self._process.wait()

    def close_requests(self) -> None:
        """Close the trainer's standard input, as the kernel does when the supervisor dies."""
        if self._requests >= 0:
            os.close(self._requests)
            self._requests = -1

    def _tell(self, line: bytes) -> None:
        if self._requests < 0:
            return
        left = memoryview(line + b"\n")
        try:
            while left:
                left = left[os.write(self._requests, left) :]
        except BrokenPipeError:
            logger.info("trainer %d was gone before it read what it was told", self.pid)


def _new_process(variables: Mapping[str, str], pipes: Pipes) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *PROGRAM, "--events-fd", str(pipes.events)],
        stdin=pipes.requests,
        stdout=pipes.log,
        stderr=subprocess.STDOUT,
        pass_fds=(pipes.events,),
        start_new_session=True,
        env=dict(variables),
    )
