"""One trainer process: started in a session of its own, spoken to in lines, stopped for certain.

Its standard input stays open for as long as we live; when we die in any way the kernel closes it, and the trainer
leaves. Events come on a pipe of their own; what libraries print goes to the job's log.
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

from ..settings.redaction import redactor
from .environment import inherited
from .logs import cap

logger = logging.getLogger(__name__)

LOG_BYTES = 100 * 10**6
"""Size above which a log loses its middle, where the caller names none."""
PROGRAM = ("-m", "celora.tuning.trainer")
"""What Python is given to run as the trainer."""


class TrainerProcess:
    """A running ``python -m celora.tuning.trainer``.

    Args:
        request: What it is to do.
        log: File to which its output is appended.
        environment: Variables beside our own, of which it gets no secret; those it needs are among these.
        log_bytes: Size above which the log loses its middle; 0: never.
    """

    def __init__(
        self, request: BaseModel, log: Path, environment: Mapping[str, str] | None = None, log_bytes: int = LOG_BYTES
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log, self._log_bytes = log, log_bytes
        self._buffer = b""
        self._events, theirs = os.pipe()
        threads: int = getattr(request, "threads", 0)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *PROGRAM, "--events-fd", str(theirs)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
                start_new_session=True,
                env={
                    **inherited(),
                    **_thread_limits(threads),
                    "TOKENIZERS_PARALLELISM": "false",
                    **(environment or {}),
                },
            )
        os.close(theirs)
        self._tell(request.model_dump_json().encode())

    @property
    def pid(self) -> int:
        """Process id, which is also its group's."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._process.poll()

    def events(self, timeout_s: float) -> list[dict[str, Any]] | None:
        """The events that arrive within the time; None when there will be no more. Keeps an eye on the log's size.

        Secrets in them are masked: what a trainer tells goes into the record, the queue and logs, and it reads rows and
        prints errors that may hold one.
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
        """Say that the checkpoint of an event is put away, or was given up; the trainer may wait for that."""
        self._tell(json.dumps({"op": "kept", "job": checkpoint.get("job"), "step": checkpoint["step"]}).encode())

    def stop(self) -> None:
        """Ask it to checkpoint at the next step boundary and leave."""
        if self.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    def dump_stacks(self) -> None:
        """Have it write the stacks of all its threads to the job's log (SIGUSR1), whatever it hangs in."""
        if self.returncode is None:
            self._process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End it and everything that it started, at once, and wait until the group is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        while self.group_alive():
            time.sleep(0.02)

    def group_alive(self) -> bool:
        """Whether any process of its group is left."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def close(self, grace_s: float = 5.0) -> int:
        """Wait for its end, kill what is left of its group, and return the exit code."""
        try:
            self._process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            logger.warning("trainer %d did not leave within %.0f s; killed", self.pid, grace_s)
        self.kill()
        os.close(self._events)
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):  # it is gone, and so is the pipe
                self._process.stdin.close()
        cap(self._log, self._log_bytes)
        return self._process.returncode

    def _tell(self, line: bytes) -> None:
        assert self._process.stdin is not None  # noqa: S101  (we asked for a pipe)
        try:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):  # a closed file is a ValueError: its checkpoint outlived it on the way
            logger.info("trainer %d was gone before it read what it was told", self.pid)


def _thread_limits(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {}
