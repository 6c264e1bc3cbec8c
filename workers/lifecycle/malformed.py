"""Drops a message that is malformed, or that killed a worker, before Celery sees it, and acknowledges it.

A stock Celery worker exits ("Unrecoverable error") on a body that is no list of three, a header of the wrong type or a
line in Redis that is no JSON. The message was not acknowledged, so it is delivered again and ends the next worker.
Here the callback that kombu calls for each line of a queue checks the line first (``message_schema``). Each dropped
message leaves a line in the log and an entry in a capped list (``dropped_messages``).
"""

import logging
from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker.strategy import default
from kombu.transport import redis

from ..dropped_messages import DIED, DroppedMessages
from .control_schema import MalformedCommandError, check_control_message
from .message_schema import MalformedMessageError, check_task_message

logger = logging.getLogger(__name__)

UNFIT = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""Errors of reading a message of the wrong shape; a broker that is away raises none of these."""
CONTROL = ".celery.pidbox"
"""End of the name of the queue on which a worker receives remote commands."""
EVENTS = "celeryev"

_worker: dict[str, str] = {}


def strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Build Celery's handler of a task's messages with a rejection of malformed ones (``Task.Strategy``)."""
    handle: Callable[..., Any] = default(task, app, consumer, **options)

    def take(message: Any, body: Any, *rest: Any) -> Any:
        try:
            return handle(message, body, *rest)
        except UNFIT as error:
            raise InvalidTaskError(f"{type(error).__name__}: {error}") from error

    return take


class Channel(redis.Channel):  # pyright: ignore[reportUntypedBaseClass]
    """kombu's channel of Redis with a check of each line of a queue before its delivery."""

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **options: Any) -> Any:  # noqa: FBT001  (the signature is kombu's)
        """Consume from a queue as kombu does, with the check before kombu's own callback."""
        kombus: Any = super()
        answer = kombus.basic_consume(queue, no_ack, callback, consumer_tag, **options)
        callbacks: Any = self.connection._callbacks  # noqa: SLF001  (kombu has no other seam)
        deliver = callbacks[queue]
        if queue.endswith(CONTROL):
            callbacks[queue] = partial(self._take_command, queue, deliver)
        elif not queue.startswith(EVENTS):
            callbacks[queue] = partial(self._take, queue, deliver)
        return answer

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: FBT001, FBT002  (the signature is kombu's)
        """Acknowledge a message, and remove its in-hand mark."""
        super().basic_ack(delivery_tag, multiple)
        self._list(lambda dropped: dropped.release(delivery_tag))

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002  (the signature is kombu's)
        """Reject a message, and remove its in-hand mark."""
        super().basic_reject(delivery_tag, requeue)
        self._list(lambda dropped: dropped.release(delivery_tag))

    def _brpop_read(self, **options: Any) -> Any:
        kombus: Any = super()
        try:
            return kombus._brpop_read(**options)  # noqa: SLF001  (the one place that reads a queue)
        except UNFIT as error:
            fault = f"no JSON ({type(error).__name__})"
            self._list(lambda dropped: dropped.add("of this worker", fault))
            return True

    def _receive_one(self, connection: Any) -> Any:
        """Read one broadcast; kombu's ``Empty`` after a malformed one would leave later ones unread in its buffer."""
        kombus: Any = super()
        try:
            return kombus._receive_one(connection)  # noqa: SLF001  (the one place that reads a broadcast)
        except (Empty, *UNFIT) as error:
            fault = f"no JSON ({type(error).__name__})"
            self._list(lambda dropped: dropped.add("remote control", fault))
            return False

    def _take(self, queue: str, deliver: Callable[[Any], Any], raw: Any) -> None:
        try:
            check_task_message(raw)
        except MalformedMessageError as error:
            fault = str(error)
            self._list(lambda dropped: dropped.add(queue, fault, raw))
            return
        tag = str(raw["properties"]["delivery_tag"])
        if deaths := self._list(lambda dropped: dropped.killed(tag, raw)):
            fault = f"{deaths} worker(s) {DIED}"
            self._list(lambda dropped: dropped.add(queue, fault, raw))
            return
        self._list(lambda dropped: dropped.take_in_hand(tag, queue, raw))
        try:
            deliver(raw)
        except UNFIT as error:
            logger.exception("a message of the queue %s can't be taken", queue)
            fault = f"Celery can't take it ({type(error).__name__})"
            self._list(lambda dropped: dropped.add(queue, fault, raw))
            self.basic_reject(tag, requeue=False)

    def _take_command(self, queue: str, deliver: Callable[[Any], Any], raw: Any) -> None:
        try:
            check_control_message(raw)
        except MalformedCommandError as error:
            fault = str(error)
            self._list(lambda dropped: dropped.add("remote control", fault))
            return
        try:
            deliver(raw)
        except UNFIT:
            logger.exception("a remote command to %s can't be taken", queue)

    def _list(self, use: Callable[[DroppedMessages], Any]) -> Any:
        with self.conn_or_acquire() as client:
            return use(DroppedMessages(client, _worker.get("name", "")))


def be_tolerant(worker: str) -> None:
    """Switch on the checks of messages in this process, a worker's own.

    Args:
        worker: The worker's node name.
    """
    _worker["name"] = worker
    redis.Transport.Channel = Channel
