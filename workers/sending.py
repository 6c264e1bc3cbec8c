"""Sends within a deadline: the record remembers, a message only wakes, so nobody has to wait for a broker that is away.

A frozen server, or one behind a dead route, answers nothing, and the time-outs of name look-up, connect, handshake and
reply add up. So each sending runs on a thread and the caller goes on when its time is over; the thread may still get
through, and what arrives late or twice does no harm (the claim decides). After a failure nothing is tried for a while,
which keeps the thousandth caller as quick as the second.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

WITHIN_S = 0.5
"""What a caller waits for a broker unless it says otherwise."""

PATIENT_S = 5.0
"""What a worker waits that sends a job on: nobody looks on, and a broker under load takes its time."""

REST_S, LONGEST_REST_S = 3.0, 30.0
"""After a failure nothing is tried for so long; twice as long after each further one."""

UNREACHABLE = (OperationalError, RedisError, OSError)
"""What a broker or result backend raises that cannot be reached."""


class _Line:
    """The way to the broker, as this process knows it."""

    def __init__(self) -> None:
        self.free = threading.Lock()  # held by whoever sends, released by the thread that did
        self.rest_until, self.rest_s = 0.0, REST_S

    def failed(self) -> None:
        """The broker did not take something: leave it alone for a while."""
        self.rest_until = time.monotonic() + self.rest_s
        self.rest_s = min(2 * self.rest_s, LONGEST_REST_S)

    def works(self) -> None:
        """The broker is there."""
        self.rest_until, self.rest_s = 0.0, REST_S


_line = _Line()


def _afresh() -> None:
    """A forked child has none of its parent's threads, so a lock that one of them held would never be free."""
    global _line  # noqa: PLW0603  (one per process)
    _line = _Line()


os.register_at_fork(after_in_child=_afresh)


def heard() -> None:
    """A message came in, so the broker is there: the next sending is tried, whatever the last one met."""
    _line.works()


def attempt(send: Callable[[], object], what: str, *, within_s: float = WITHIN_S) -> bool:
    """Send something that may get lost, waiting at most ``within_s`` seconds.

    Args:
        send: What sends it.
        what: What it is, for the log.
        within_s: Seconds that the caller has.

    Returns:
        Whether it was sent for certain. False where the broker is away; it may still arrive.

    Raises:
        Exception: Whatever ``send`` raises that says nothing about the broker.
    """
    line, deadline = _line, time.monotonic() + within_s
    if time.monotonic() < line.rest_until:
        logger.info("%s is not sent: the broker was away a moment ago", what)
        return False
    if not line.free.acquire(timeout=within_s):
        logger.info("%s is not sent: the broker has not answered for %.1f s", what, within_s)
        return False
    errors: list[Exception] = []
    done, alone = threading.Event(), threading.Event()

    def run() -> None:
        try:
            send()
            line.works()
        except Exception as error:  # noqa: BLE001  (handed to the caller)
            errors.append(error)
            if alone.is_set():
                logger.info("%s is not sent (%s)", what, error)
        finally:
            line.free.release()
            done.set()

    threading.Thread(target=run, name="sending", daemon=True).start()
    if not done.wait(max(0.0, deadline - time.monotonic())):
        alone.set()
        line.failed()
        logger.info("%s may be lost: the broker did not answer within %.1f s", what, within_s)
        return False
    if not errors:
        return True
    if not isinstance(errors[0], UNREACHABLE):
        raise errors[0]
    line.failed()
    logger.info("%s is not sent: the broker cannot be reached (%s)", what, errors[0])
    return False
