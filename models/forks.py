"""A fork waits until no other thread of this process is inside a transaction.

SQLite remembers in the process which locks its connections hold. A child that is forked inside another thread's
transaction inherits that memory and not the locks, and finds the database locked for ever; a worker's main process
forks its children while a thread of it tells the record that it lives.
"""

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager

WAIT_S = 10.0
"""Longest wait for the others' transactions; after it the fork goes on, since nothing may stop a worker for ever."""


class Gate:
    """Counts the threads inside; closed during a fork."""

    def __init__(self) -> None:
        self._condition = threading.Condition()  # on an RLock: whoever forks holds it until the fork is over
        self._inside = 0
        self._own = threading.local()

    @contextmanager
    def inside(self) -> Generator[None]:
        """A transaction, from its begin to its end."""
        with self._condition:
            self._count(1)
        try:
            yield
        finally:
            with self._condition:
                self._count(-1)
                self._condition.notify_all()

    def close(self) -> None:
        """Before a fork: wait for the others and let nobody in."""
        self._condition.acquire()
        self._condition.wait_for(lambda: self._inside <= self._mine, timeout=WAIT_S)

    def open(self) -> None:
        """After a fork, in the parent."""
        self._condition.release()

    @property
    def _mine(self) -> int:
        return getattr(self._own, "count", 0)

    def _count(self, change: int) -> None:
        self._inside += change
        self._own.count = self._mine + change


gate = Gate()


def _afresh() -> None:
    """In the child there is one thread, and nobody inside."""
    gate.__init__()


os.register_at_fork(before=gate.close, after_in_parent=gate.open, after_in_child=_afresh)
