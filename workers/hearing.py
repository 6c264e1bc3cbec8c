"""Whether this worker still hears its queues; one that is connected but deaf leaves, to be started anew.

After a reconnect a Celery consumer may be alive, answer pings, and read nothing (celery issue 8030 and its kin).
Nothing inside the worker tells that state from an idle one, so the queues are asked: messages that wait for long beside
a worker that has nothing to do, and has received nothing meanwhile, are not heard. A broker that cannot be asked says
nothing.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from celery import Celery
from celery.worker import state

from .sending import UNREACHABLE
from .standing import here

logger = logging.getLogger(__name__)

EXIT_CODE = 70
"""A deaf worker's (EX_SOFTWARE): its service manager starts it again, as after any exit but 0."""

LEAVE_S = 10.0


class Hearing:
    """Judges, look after look, whether a worker is deaf.

    Args:
        waiting: How many messages wait in the worker's queues; None where the broker cannot be asked.
        received: How many tasks the worker has received since its start.
        busy: Whether it carries a task, or holds one, or reads nothing on purpose.
        deaf_after_s: Seconds without a sound that are too many.
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
        self._heard = received()

    def deaf(self, now: float) -> bool:
        """Look once, at ``now`` by the monotonic clock."""
        heard = self._received()
        if self._busy() or heard != self._heard or not self._waiting():
            self._silent_since, self._heard = None, heard
            return False
        if self._silent_since is None:
            self._silent_since = now
        return now - self._silent_since >= self._deaf_after_s


def watch(app: Celery, names: Iterable[str], deaf_after_s: float, stop: threading.Event) -> threading.Thread:
    """Watch this worker's hearing on a thread of its own until ``stop``; a deaf one is made to leave."""
    queues = list(names)
    hearing = Hearing(lambda: _waiting(app, queues), _received, _busy, deaf_after_s)

    def look() -> None:
        while not stop.wait(deaf_after_s / 4):
            if _leaving():
                return
            if hearing.deaf(time.monotonic()):
                _leave(queues, deaf_after_s, stop)
                return

    thread = threading.Thread(target=look, name="hearing", daemon=True)
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


def _waiting(app: Celery, queues: list[str]) -> int | None:
    try:
        with app.connection_for_read() as connection:
            channel = connection.default_channel
            return sum(_length(channel, name, connection.channel_errors) for name in queues)
    except UNREACHABLE as error:
        logger.info("the broker cannot be asked what waits (%s)", error)
        return None


def _length(channel: Any, name: str, no_such_queue: tuple[type[BaseException], ...]) -> int:
    try:
        return int(channel.queue_declare(queue=name, passive=True).message_count)
    except no_such_queue:
        return 0  # on Redis a queue without messages is none


def _received() -> int:
    return int(state.all_total_count[0])


def _busy() -> bool:
    return bool(len(state.active_requests) or len(state.reserved_requests)) or here.stands_back


def _leaving() -> bool:
    return state.should_stop is not None or state.should_terminate is not None
