"""Writes the events of a trainer process from any thread: one JSON object a line; two lines never mix.

One stream is one descriptor; each job of the process has its own ``JobEvents`` on the stream.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from ...errors import CeloraError
from ..protocol import EXIT_DRAINED, event_line


class RunInterrupted(BaseException):
    """Unwinds a run that is asked to stop while it has no step boundary; handlers of errors do not catch it."""


class EventStream:
    """Writes event lines to a descriptor.

    Args:
        fd: The descriptor; this object owns and closes it.
        lost: Called when the reader of the descriptor is gone.
    """

    def __init__(self, fd: int, lost: Callable[[], None]) -> None:
        self._file = os.fdopen(fd, "wb", buffering=0)
        self._lost = lost
        self.lock = threading.RLock()
        """Lock of a line; its holder prevents other threads from writing."""

    def write(self, line: bytes) -> None:
        """Write one whole line."""
        left = memoryview(line)
        with self.lock:
            try:
                while left:
                    left = left[self._file.write(left) or 0 :]
            except ConnectionError:
                self._lost()

    def close(self) -> None:
        """Close the descriptor."""
        self._file.close()


class Lines(Protocol):
    """Takes whole lines.

    Attributes:
        lock: The lock of a line; its holder prevents other threads from writing.
    """

    lock: threading.RLock

    def write(self, line: bytes, /) -> object:
        """Write one whole line."""
        ...


class JobEvents:
    """Writes the events of one attempt of one job.

    Args:
        stream: The stream of the lines.
        job: The job's id, part of each event.
        attempt: The attempt's number, part of each event.
        after_checkpoint: Called with the step after a ``checkpoint`` event is written; the run continues after the
            call.
        interrupt: Set to unwind the run from its next event, where it has no step boundaries; None in a process that is
            ended instead (``leave``).

    Attributes:
        failed_as: The kind of the error of the ``failed`` event; None if there was none.
        device_s: Returns the seconds of a shared device that the run has used; None where the run shares none.
    """

    def __init__(
        self,
        stream: Lines,
        job: str = "",
        attempt: int = 0,
        after_checkpoint: Callable[[int], None] = lambda _step: None,
        *,
        interrupt: threading.Event | None = None,
    ) -> None:
        self._stream, self._job, self._attempt = stream, job, attempt
        self._after_checkpoint, self._interrupt = after_checkpoint, interrupt
        self._has_boundaries = False
        self.failed_as: type[CeloraError] | None = None
        self.device_s: Callable[[], float] | None = None

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event as one line.

        Raises:
            RunInterrupted: The run has to stop, and has no step boundary at which it would.
        """
        if self._interrupt is not None and event in {"phase", "note"}:
            self.raise_if_interrupted()
        if self.device_s is not None and event in {"phase", "progress"}:
            fields["device_s"] = self.device_s()
        with self._stream.lock:
            if event in {"started", "done", "failed"}:
                self._has_boundaries = True
            self._stream.write(event_line(event, job=self._job, attempt=self._attempt, **fields))
        if event == "checkpoint":
            self._after_checkpoint(fields["step"])

    def raise_if_interrupted(self) -> None:
        """Raise ``RunInterrupted`` if the run has to stop and has no step boundary."""
        if self._interrupt is not None and self._interrupt.is_set() and not self._has_boundaries:
            raise RunInterrupted

    def fail(self, error: CeloraError) -> None:
        """Write the ``failed`` event of an error."""
        self.failed_as = type(error)
        facts = {"facts": error.facts} if error.facts else {}
        self.emit("failed", error={"code": error.code, "message": error.message, "hint": error.hint, **facts})

    def leave(self, end: Callable[[int], None]) -> None:
        """End the process now, unless the run is over or can stop at a step boundary; each event stays whole.

        Args:
            end: Ends the process with an exit code, even while the main thread is in a library that catches everything.
        """
        with self._stream.lock:
            if self._has_boundaries:
                return
            with suppress(BrokenPipeError):
                self._stream.write(event_line("drained", job=self._job, attempt=self._attempt, step=0))
            end(EXIT_DRAINED)
