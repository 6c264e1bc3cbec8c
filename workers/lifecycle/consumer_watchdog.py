"""Detects a worker that is connected but receives nothing, and ends it, so that its service manager starts it again.

After a reconnect a Celery consumer may be alive, answer pings and receive nothing (celery issue 8030 and its kin).
Inside the worker that state looks like an idle one, so the queues are checked: if messages wait for long while the
worker is idle and receives no message, its consumer is dead. A broker that cannot be reached proves nothing.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable

from celery import Celery
from celery.worker import state

from ..messages import UNREACHABLE
from ..queues import depths
from .cordon import here

logger = logging.getLogger(__name__)

EXIT_CODE = 70
"""Exit code of a worker with a dead consumer (EX_SOFTWARE); a service manager restarts after any exit but 0."""

LEAVE_S = 10.0


class ConsumerWatchdog:
    """Decides at each check if a worker's consumer is dead.

    Args:
        waiting: Returns the number of messages in the worker's queues; None where the broker cannot be reached.
        received: Returns the number of tasks that the worker has received since its start.
        busy: Returns whether the worker runs a task, has a message in hand, or reads no queue on purpose.
        deaf_after_s: Seconds without a received message after which the consumer counts as dead.
    """

    def __init__(
        self,
        waiting: Callable[[], int | None],
        received: Callable[[], int],
        busy: Callable[[], bool],
        deaf_after_s: float,
    ) -> None:
        self._waiting, self._received, self._busy, self._deaf_after_s = waiting, received, busy, deaf_after_s
        self._silent_since: float | None = None
        self._last_received = received()

    def is_deaf(self, now: float) -> bool:
        """Check if the consumer is dead, at ``now`` by the monotonic clock."""
        received = self._received()
        if self._busy() or received != self._last_received or not self._waiting():
            self._silent_since, self._last_received = None, received
            return False
        if self._silent_since is None:
            self._silent_since = now
        return now - self._silent_since >= self._deaf_after_s


def watch(app: Celery, names: Iterable[str], deaf_after_s: float, stop: threading.Event) -> threading.Thread:
    """Check this worker's consumer on a thread of its own until ``stop``; end the worker when it is dead."""
    queues = list(names)
    watchdog = ConsumerWatchdog(lambda: _waiting(app, queues), _received, _busy, deaf_after_s)

    def check() -> None:
        while not stop.wait(deaf_after_s / 4):
            if _leaving():
                return
            if watchdog.is_deaf(time.monotonic()):
                _leave(queues, deaf_after_s, stop)
                return

    thread = threading.Thread(target=check, name="consumer-watchdog", daemon=True)
    thread.start()
    return thread


def _leave(queues: list[str], deaf_after_s: float, stop: threading.Event) -> None:
    logger.error(
        "messages have waited in %s for %.0f s and this idle worker received none: it is deaf, leaves with exit code "
        "%d and has to be started again",
        ", ".join(queues), deaf_after_s, EXIT_CODE,
    )  # fmt: skip
    state.should_stop = EXIT_CODE  # the main loop, if it runs, shuts down in order
    if not stop.wait(LEAVE_S):
        os._exit(EXIT_CODE)


def _waiting(app: Celery, names: list[str]) -> int | None:
    try:
        return sum(depths(app, names).values())
    except UNREACHABLE as error:
        logger.info("the broker cannot be asked for the length of its queues (%s)", error)
        return None


def _received() -> int:
    return int(state.all_total_count[0])


def _busy() -> bool:
    return bool(len(state.active_requests) or len(state.reserved_requests)) or here.paused


def _leaving() -> bool:
    return state.should_stop is not None or state.should_terminate is not None
