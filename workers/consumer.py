"""Celery's consumer, which outlives a broker that dies while a channel is being read.

When the connection breaks, Celery closes it twice. The first time kombu may stop at a channel that would tell the
broker something, leave another one open and forget where the broker is; the second time that channel would give back
what was not acknowledged, finds no address and raises an AttributeError. Celery takes that for no lost connection, and
the worker ends. Nothing is lost where it is not given back: the broker gives it out again later, and the record sends
what it knows.
"""

import logging
from typing import Any

from celery.worker import consumer

logger = logging.getLogger(__name__)


class Consumer(consumer.Consumer):
    """As Celery's; ``worker_consumer`` names it."""

    connection: Any

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of a broken connection; the next one is made by who called."""
        connection = self.connection
        connection.close = lambda: close_broken(connection)  # what Celery calls, and kombu's own
        super().on_connection_error_after_connected(exc)


def close_broken(connection: Any) -> None:
    """Close a connection that broke and whose parts may know nothing of each other any more."""
    try:
        connection.release()
    except AttributeError as error:
        logger.info("the broken connection to the broker is closed in a second go (%s)", error)
        connection.release()
