"""Messages that are none: dropped with a line in the log, where Celery's worker would end over them.

Stock Celery refuses a format that it does not accept, but a body that is no list of three, or a line in Redis that is
no JSON, ends the worker ("Unrecoverable error"); what was not acknowledged then goes to the next one, and ends that
too. One bad line must not stop an installation.
"""

import logging
from collections.abc import Callable
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker.strategy import default
from kombu.transport import redis

logger = logging.getLogger(__name__)

UNFIT = (ValueError, TypeError, LookupError, AttributeError)
"""What reading a message of the wrong shape raises; what a broker that is away raises is none of these."""


def strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Celery's way to take a task's messages, which rejects one of the wrong shape (``Task.Strategy``)."""
    handle: Callable[..., Any] = default(task, app, consumer, **options)

    def take(message: Any, body: Any, *rest: Any) -> Any:
        try:
            return handle(message, body, *rest)
        except UNFIT as error:
            raise InvalidTaskError(f"{type(error).__name__}: {error}") from error

    return take


class Channel(redis.Channel):  # pyright: ignore[reportUntypedBaseClass]
    """kombu's channel of Redis, which reads over a line that is no message."""

    def _brpop_read(self, **options: Any) -> Any:
        kombus: Any = super()
        try:
            return kombus._brpop_read(**options)  # noqa: SLF001  (the one place that reads a queue)
        except UNFIT as error:
            logger.error("a line in a queue that is no message is dropped (%s: %s)", type(error).__name__, error)  # noqa: TRY400  (the stack is kombu's)
            return True


def be_tolerant() -> None:
    """Have this process, a worker's own, read over such lines."""
    redis.Transport.Channel = Channel
