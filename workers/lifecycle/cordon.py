"""Pauses and resumes a worker's consumption of its queues: cordoned, unhealthy, or another process uses its GPU.

The messages stay in the queues for other workers. The change is made in Celery's own event loop, together with the list
of queues that a reconnect will read. The entry queue is never paused: it carries bookkeeping, no stages of jobs.
"""

import logging
import threading
from collections.abc import Iterable
from typing import Any

from .. import queues

logger = logging.getLogger(__name__)


class Cordon:
    """Passes the reason why a worker takes no work from its heartbeats to its event loop."""

    def __init__(self) -> None:
        self.obstacle = ""
        self._consumer: Any = None
        self._names: list[str] = []
        self._wake = threading.Event()

    @property
    def paused(self) -> bool:
        """Return whether the worker has paused its work queues on purpose."""
        return bool(self.obstacle)

    def attach(self, consumer: Any, names: Iterable[str]) -> None:
        """Attach to the consumer of a worker that is ready.

        Args:
            consumer: Celery's consumer, whose event loop and reader are used.
            names: The queues that the worker reads while there is no obstacle.
        """
        self._consumer, self._names, self.obstacle = consumer, list(names), ""

    def wake(self) -> None:
        """End the wait between two heartbeats now."""
        self._wake.set()

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Wait until the next heartbeat, or until ``wake`` is called; return True if the worker is leaving."""
        self._wake.wait(seconds)
        self._wake.clear()
        return stop.is_set()

    def apply(self, obstacle: str) -> None:
        """Pause or resume the consumption of the work queues; the same call twice does nothing.

        Args:
            obstacle: The reason why this worker takes no work, in words; empty if it takes work.
        """
        before, self.obstacle = self.obstacle, obstacle
        if bool(before) == bool(obstacle) or self._consumer is None:
            return
        wanted = [name for name in self._names if not obstacle or name == queues.ENTRY]
        if obstacle:
            logger.warning("takes no work from now on: %s", obstacle)
        else:
            logger.info("takes work again")
        self._consumer.call_soon(_consume, self._consumer, self._names, wanted)


def _consume(consumer: Any, names: list[str], wanted: list[str]) -> None:
    """Consume the wanted queues only; runs in the worker's event loop, whose reader may be away for a reconnect."""
    known, reader = consumer.app.amqp.queues, consumer.task_consumer
    known.select(wanted)
    if reader is None:
        return
    for name in names:
        if name not in wanted:
            reader.cancel_by_queue(name)
        elif not reader.consuming_from(name):
            reader.add_queue(known[name])
            reader.consume()


here = Cordon()
"""The cordon of this process's worker."""
