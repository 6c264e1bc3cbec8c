"""Refuses a worker whose broker user may not read its queues, as with an application's URL, which can only send."""

from collections.abc import Iterable
from typing import Any

from celery import Celery
from redis.exceptions import NoPermissionError

from ...errors import SettingsError
from ..messages import UNREACHABLE


def require_access(app: Celery, names: Iterable[str]) -> None:
    """Try to read each queue; an unreachable broker is waited for later, and a broker of another kind is not checked.

    Args:
        app: The Celery app.
        names: The queues that the worker is to read.

    Raises:
        SettingsError: The broker's user may not read a queue.
    """
    try:
        with app.connection_for_read() as connection:
            if connection.transport.driver_type != "redis":
                return
            channel: Any = connection.default_channel
            for name in names:
                channel.client.lrange(name, -1, -1)
    except NoPermissionError as error:
        raise SettingsError(
            f"this worker's user on the broker may not read its queues ({error}).",
            hint="CELORA_BROKER_URL is for applications; set CELORA_WORKER_BROKER_URL to the workers' user.",
        ) from error
    except UNREACHABLE:
        return
