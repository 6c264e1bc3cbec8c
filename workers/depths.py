"""How many messages wait in each queue, all priorities together (on Redis a queue is one list for each)."""

from collections.abc import Iterable
from typing import Any

from celery import Celery


def depths(app: Celery, names: Iterable[str]) -> dict[str, int]:
    """Messages by queue; a queue that does not exist yet has none.

    Raises:
        Exception: One of ``sending.UNREACHABLE``, where the broker cannot be asked.
    """
    found: dict[str, int] = {}
    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        for name in names:
            try:
                found[name] = int(channel.queue_declare(queue=name, passive=True).message_count)
            except connection.channel_errors:
                found[name] = 0  # on Redis a queue without messages is none
    return found
