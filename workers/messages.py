"""Sends Celery messages within a deadline. The record holds the state, and a message only saves the wait for a round.

A frozen server, or one behind a dead route, does not answer, and the time-outs of name look-up, connect, handshake and
reply add up. So each message is sent on another thread, and the caller continues after its deadline. The thread may
still succeed; a message that arrives late or twice does no harm, because the claim decides. After a failure no message
is sent for a while, which keeps the thousandth caller as quick as the second.

A process keeps one sending thread. Celery makes a result backend for every thread that sends, about 100 objects in
reference cycles and a reading of all installed packages' entry points. With a thread for each message, a control worker
grew by 140 KiB a job.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from . import queues
from .celery import EXPIRES_S, app

logger = logging.getLogger(__name__)

WITHIN_S = 0.5
"""Seconds that a caller waits for the broker by default."""

PATIENT_S = 5.0
"""Seconds that a worker waits when it sends the next stage: no person waits then, and a loaded broker is slow."""

REST_S, LONGEST_REST_S = 3.0, 30.0
"""Pause after a failure; it is doubled after each further failure."""

UNREACHABLE = (OperationalError, RedisError, OSError)
"""Errors of a broker or a result backend that cannot be reached."""


class _Connection:
    """Keeps the state of this process's way to the broker, and the thread that sends one message at a time."""

    def __init__(self) -> None:
        self.free = threading.Lock()  # acquired by the caller, released by the thread that sends
        self.rest_until, self.rest_s = 0.0, REST_S
        self._sends: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._timer: threading.Timer | None = None

    def run(self, send: Callable[[], None]) -> None:
        """Run ``send`` on the sending thread; the caller has acquired ``free``."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run_all, name="sending", daemon=True)
            self._thread.start()
        self._sends.put(send)

    def run_later(self, act: Callable[[], None], pause_s: float) -> None:
        """Call ``act`` on a thread after a pause, unless such a call is due already."""
        if self._timer is not None:
            return

        def run() -> None:
            self._timer = None  # what comes in answer to this call may need another
            act()

        self._timer = threading.Timer(pause_s, run)
        self._timer.daemon = True
        self._timer.start()

    def close(self) -> None:
        """End the sending thread after its present message, and close its connections."""
        self._sends.put(None)
        if self._timer is not None:
            self._timer.cancel()

    def _run_all(self) -> None:
        while (send := self._sends.get()) is not None:
            send()
            del send  # it holds the caller's objects, and the next message may be long in coming
        close_thread_backend(app)

    def pause(self) -> None:
        """Send no message for a while, because the broker did not accept one."""
        self.rest_until = time.monotonic() + self.rest_s
        self.rest_s = min(2 * self.rest_s, LONGEST_REST_S)

    def resume(self) -> None:
        """Send the next message at once, because the broker answered."""
        self.rest_until, self.rest_s = 0.0, REST_S


_connection = _Connection()


def _reset_in_child() -> None:
    """Make a new lock: a forked child has none of its parent's threads, so a lock that one held would never be free."""
    global _connection  # noqa: PLW0603  (one per process)
    _connection = _Connection()


os.register_at_fork(after_in_child=_reset_in_child)


def close_connection() -> None:
    """End this process's sending thread; the next message starts another, with the app's settings of that time."""
    _connection.close()
    _reset_in_child()


def note_broker_up() -> None:
    """End the pause after a failure, because a message came in."""
    _connection.resume()


def request_tick() -> None:
    """Request a scheduling round now; where the broker cannot be reached, the timer starts one later."""

    def send() -> None:
        app.send_task("celora.tick", queue=queues.ENTRY, expires=EXPIRES_S, retry=False, ignore_result=True)

    attempt(send, "a scheduling round")


def request_tick_later(pause_s: float) -> None:
    """Request a scheduling round after a pause, unless this process is to request one already.

    The request waits in this process and not in the broker: Celery keeps a message with a countdown in the hands of a
    worker, with whose death it would count as a message that ends workers.
    """
    _connection.run_later(request_tick, pause_s)


def send_finetune(job_id: str, spec: Mapping[str, Any]) -> bool:
    """Send the message of a submission, by which Celery and Flower know the job; return False where it may be lost.

    The result is ignored, since Celery would otherwise subscribe to it, or fail to.
    """

    def send() -> None:
        app.send_task(
            "celora.finetune", kwargs=dict(spec), task_id=job_id, queue=queues.ENTRY, retry=False, ignore_result=True
        )

    return attempt(send, f"job {job_id}")


def close_thread_backend(app: Celery) -> None:
    """Close the result backend that Celery made for this thread, whose connections would outlive the thread."""
    local: Any = vars(app)["_local"]  # Celery has no public name for it
    backend: Any = getattr(local, "backend", None)
    if backend is None:
        return
    del local.backend
    client: Any = backend.__dict__.get("client")  # made at its first use
    if client is not None:
        client.close()
        client.connection_pool.disconnect()


def attempt(send: Callable[[], object], what: str, *, within_s: float = WITHIN_S) -> bool:
    """Send a message that may get lost, waiting at most ``within_s`` seconds.

    Args:
        send: Sends the message.
        what: A name of the message, for the log.
        within_s: Seconds that the caller waits.

    Returns:
        True if the message was certainly sent. False where the broker is away; the message may still arrive.

    Raises:
        Exception: Every error of ``send`` that is not about the broker's reachability.
    """
    connection, deadline = _connection, time.monotonic() + within_s
    if time.monotonic() < connection.rest_until:
        logger.info("%s is not sent: the broker was away a moment ago", what)
        return False
    if not connection.free.acquire(timeout=within_s):
        logger.info("%s is not sent: the broker has not answered for %.1f s", what, within_s)
        return False
    errors: list[Exception] = []
    done, alone = threading.Event(), threading.Event()

    def run() -> None:
        try:
            send()
            connection.resume()
        except Exception as error:  # noqa: BLE001  (handed to the caller)
            errors.append(error)
            if alone.is_set():
                logger.info("%s is not sent (%s)", what, error)
        finally:
            connection.free.release()
            done.set()

    connection.run(run)
    if not done.wait(max(0.0, deadline - time.monotonic())):
        alone.set()
        connection.pause()
        logger.info("%s may be lost: the broker did not answer within %.1f s", what, within_s)
        return False
    if not errors:
        return True
    if not isinstance(errors[0], UNREACHABLE):
        raise errors[0]
    connection.pause()
    logger.info("%s is not sent: the broker cannot be reached (%s)", what, errors[0])
    return False
