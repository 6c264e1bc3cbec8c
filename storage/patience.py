"""Patience with an object store: a call that fails is made again, later each time, until a deadline.

An error that another try can't change (nothing there, not allowed, no space) is raised at once. A call that does not
come back is given up at the deadline; it runs on a thread, which is left behind.
"""

import errno
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ..settings.errors import CeloraError, StorageError

logger = logging.getLogger(__name__)

T = TypeVar("T")
PATIENCE_S = 120.0
SLOWEST_BYTES_PER_S = 2**20
"""A transfer may take longer by what it would take at this speed."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 15.0
FINAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError, CeloraError)
FINAL_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PROGRAMMING = (TypeError, AttributeError, NotImplementedError)


class Patience:
    """Makes calls to a store that may be away or slow.

    Args:
        patience_s: Seconds that an operation is tried for, what its bytes take aside.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s

    def deadline(self, size_bytes: int = 0) -> float:
        """When an operation that moves so many bytes, and begins now, is given up (monotonic clock)."""
        return time.monotonic() + self._patience_s + size_bytes / SLOWEST_BYTES_PER_S

    def call(self, what: str, call: Callable[[], T], deadline: float) -> T:
        """Make a call, again and again until the deadline.

        Args:
            what: What it reads or writes, for the log and the error.
            call: Safe to repeat.
            deadline: From ``deadline``.

        Raises:
            StorageError: It did not succeed in time.
            Exception: Its own error, where another try would not change it.
        """
        wait_s = FIRST_WAIT_S
        while True:
            try:
                return _within(what, call, deadline)
            except FINAL + PROGRAMMING:
                raise
            except Exception as error:
                pause_s = wait_s * random.uniform(0.5, 1.0)  # noqa: S311  (jitter: a thousand workers do not come back at once)
                if (isinstance(error, OSError) and error.errno in FINAL_NUMBERS) or _over(deadline, pause_s):
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
