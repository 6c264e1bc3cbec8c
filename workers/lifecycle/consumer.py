"""Keeps Celery's consumer alive when the broker dies while a channel is being read; runs no gossip and no mingle.

When the connection breaks, Celery closes it twice. The first time kombu may stop at a channel that would write to the
broker, leave another channel open and drop the broker's address. The second time that channel would restore its
unacknowledged messages, finds no address and raises an AttributeError. Celery does not take that error for a lost
connection, and the worker ends. A message that is not restored is not lost: the broker delivers it again later, and the
record sends the messages of the jobs that it knows.

Gossip and mingle read the broadcasts of other workers without a check. celora's workers need neither, since they share
their state in the record.
"""

import logging
from typing import Any

from celery.worker import consumer

logger = logging.getLogger(__name__)

NOT_NEEDED = ("celery.worker.consumer.gossip:Gossip", "celery.worker.consumer.mingle:Mingle")


class Consumer(consumer.Consumer):
    """Celery's consumer with a tolerant close of a broken connection; the setting ``worker_consumer`` names it."""

    connection: Any

    class Blueprint(consumer.Consumer.Blueprint):
        """Celery's blueprint without the steps that celora does not need."""

        default_steps = [step for step in consumer.Consumer.Blueprint.default_steps if step not in NOT_NEEDED]  # noqa: RUF012  (as Celery has it)  # pyright: ignore[reportAssignmentType]  (celery-types has a set)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close a broken connection for good; Celery makes the next one."""
        connection = self.connection
        connection.close = lambda: close_broken(connection)  # Celery calls it, and so does kombu
        super().on_connection_error_after_connected(exc)


def close_broken(connection: Any) -> None:
    """Close a broken connection, whose parts may no longer refer to each other."""
    try:
        connection.release()
    except AttributeError as error:
        logger.info("the broken connection to the broker is closed in a second go (%s)", error)
        connection.release()
