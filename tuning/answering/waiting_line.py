"""Holds the requests that wait for the one model of the host, in the order of their arrival and within bounds."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

WAITING = 32
"""Most requests that wait; each holds its conversation in memory, and the last one waits for all before it."""
WAITING_OF_TENANT = 24
"""Most requests of one tenant that wait, so that no tenant takes every place."""

T = TypeVar("T")


class WaitingLine(Generic[T]):
    """A bounded queue that closes when nothing came for a while.

    Args:
        is_wanted: Returns whether an item still counts; others give up their place.
        most: Most items that wait.
        most_of_tenant: Most items of one tenant that wait.
    """

    def __init__(
        self, is_wanted: Callable[[T], bool], *, most: int = WAITING, most_of_tenant: int = WAITING_OF_TENANT
    ) -> None:
        self._is_wanted = is_wanted
        self._most, self._most_of_tenant = most, most_of_tenant
        self._items: deque[tuple[str, T]] = deque()
        self._changed = threading.Condition()
        self._closed = False

    @property
    def closed(self) -> bool:
        """True once nothing is taken any more."""
        return self._closed

    def put(self, tenant: str, item: T) -> bool:
        """Add an item at the end; return False if there is no place for it, or the line is closed."""
        with self._changed:
            self._items = deque(one for one in self._items if self._is_wanted(one[1]))
            own = sum(one == tenant for one, _ in self._items)
            if self._closed or len(self._items) >= self._most or own >= self._most_of_tenant:
                return False
            self._items.append((tenant, item))
            self._changed.notify()
            return True

    def take(self, within_s: float) -> T | None:
        """Wait for the first item; None, and the line is closed for good, if none came in time."""
        with self._changed:
            came = self._changed.wait_for(lambda: bool(self._items) or self._closed, within_s)
            self._closed = self._closed or not came
            return None if self._closed else self._items.popleft()[1]

    def close(self) -> None:
        """Take nothing any more; whoever waits for an item gets None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
