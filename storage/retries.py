"""Repeats failed calls to an object store, after growing pauses, until a deadline.

A permanent error (missing, not allowed, no space) is raised at once. A call that does not return is abandoned at the
deadline, together with the thread that it runs on.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import CeloraError, StorageError
from .disk_space import is_no_space

logger = logging.getLogger(__name__)

T = TypeVar("T")
PATIENCE_S = 120.0
SLOWEST_BYTES_PER_S = 2**20
"""The assumed speed of a transfer: its deadline is extended by the time that its bytes need at this speed."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 15.0
FINAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError, CeloraError)
PROGRAMMING = (TypeError, AttributeError, NotImplementedError)


class Patience:
    """Makes calls to a store that may be unavailable or slow.

    Args:
        patience_s: Seconds to keep retrying, plus the time that the transfer itself may take.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s

    def deadline(self, size_bytes: int = 0) -> float:
        """Return the deadline of an operation that begins now and moves so many bytes (monotonic clock)."""
        return time.monotonic() + self._patience_s + size_bytes / SLOWEST_BYTES_PER_S

    def call(self, what: str, call: Callable[[], T], deadline: float) -> T:
        """Make a call, and repeat it until it succeeds or the deadline passes.

        Args:
            what: The URI or path of the call, for the log and the error.
            call: The call; it must be safe to repeat.
            deadline: The result of ``deadline``.

        Raises:
            StorageError: The call did not return in time.
            Exception: The error of the call, if it is permanent or the deadline has passed.
        """
        wait_s = FIRST_WAIT_S
        while True:
            try:
                return _within(what, call, deadline)
            except FINAL + PROGRAMMING:
                raise
            except Exception as error:
                pause_s = wait_s * random.uniform(0.5, 1.0)  # noqa: S311  (jitter: a thousand workers do not come back at once)
                if is_no_space(error) or _over(deadline, pause_s):
                    raise
                logger.warning("%s failed (%s); tried again in %.1f s", what, error, pause_s)
            time.sleep(pause_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _over(deadline: float, pause_s: float) -> bool:
    return time.monotonic() + pause_s >= deadline


def _within(what: str, call: Callable[[], T], deadline: float) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001  (handed to the caller)
            errors.append(error)

    thread = threading.Thread(target=run, name="storage", daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if errors:
        raise errors[0]
    if not results:
        raise StorageError(
            f"{what} did not answer in time.", hint="Look at the storage and the network; the job is tried again."
        )
    return results[0]
