"""Whether this worker reads its queues now: what the record wants of it, done in the worker itself.

A cordoned worker, an unhealthy one and one whose device somebody else uses leave their messages to the others. The
change is made in Celery's own event loop, and what a reconnect will read is changed with it. The entry queue is never
left: it carries the bookkeeping, not work.

``stands_back`` is for whoever asks why a worker with waiting messages and a free slot reads nothing (``hearing``).
"""

import logging
import threading
from collections.abc import Iterable
from typing import Any

from . import queues

logger = logging.getLogger(__name__)


class Standing:
    """How a worker stands, between its heartbeats and its event loop."""

    def __init__(self) -> None:
        self.obstacle = ""
        self._consumer: Any = None
        self._names: list[str] = []
        self._wake = threading.Event()

    @property
    def stands_back(self) -> bool:
        """Whether it reads no work queue on purpose."""
        return bool(self.obstacle)

    def begin(self, consumer: Any, names: Iterable[str]) -> None:
        """The worker is ready.

        Args:
            consumer: Celery's, whose loop and reader are used.
            names: The queues that it reads while nothing stands in its way.
        """
        self._consumer, self._names, self.obstacle = consumer, list(names), ""

    def look(self) -> None:
        """End the rest between two heartbeats now."""
        self._wake.set()

    def rest(self, seconds: float, stop: threading.Event) -> bool:
        """Wait until the next heartbeat, or until somebody calls ``look``; True if the worker is leaving."""
        self._wake.wait(seconds)
        self._wake.clear()
        return stop.is_set()

    def heed(self, obstacle: str) -> None:
        """Read the work queues, or stop; the same twice does nothing.

        Args:
            obstacle: Why this worker takes no work, in words; empty if it does.
        """
        before, self.obstacle = self.obstacle, obstacle
        if bool(before) == bool(obstacle) or self._consumer is None:
            return
        wanted = [name for name in self._names if not obstacle or name == queues.ENTRY]
        if obstacle:
            logger.warning("takes no work from now on: %s", obstacle)
        else:
            logger.info("takes work again")
        self._consumer.call_soon(_read, self._consumer, self._names, wanted)


def _read(consumer: Any, names: list[str], wanted: list[str]) -> None:
    """Read only the wanted queues; runs in the worker's event loop, where the reader may be away for a reconnect."""
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


here = Standing()
"""This process's worker."""
