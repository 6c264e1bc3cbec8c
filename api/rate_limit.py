"""Limits the requests of each key in any minute; the counts are on the broker's server, so that processes share them.

The count of the last 60 seconds is estimated from two fixed minutes: the present one, and the part of the one before
that still lies within 60 seconds (a sliding window counter). Two numbers a key suffice, and a key cannot send twice its
limit around the change of a minute. Where the server does not answer, each process counts in memory for a while.

Unusual: the package ``limits`` is not used. Its clients are bound to older redis packages, or bring a second client.
"""

import logging
import math
import threading
import time
from functools import lru_cache
from typing import Protocol

import redis

from ..doctor.server import client_of
from ..errors import RequestError
from ..settings.settings import Settings, get_settings

logger = logging.getLogger(__name__)

WINDOW_S = 60
KEPT_S = 2 * WINDOW_S
PATIENCE_S = 0.25
"""Seconds that a request waits for the server."""
REST_S = 10.0
"""Seconds for which the server is not asked after it did not answer."""
PREFIX = "celora.requests."
"""Beginning of the server's keys; applications may not touch keys of this name (``workers.node.broker_roles``)."""


class Counter(Protocol):
    """Counts the requests of fixed minutes."""

    def add(self, name: str, minute: int, amount: int) -> tuple[int, int]:
        """Add to a minute's count; return the new count, and the count of the minute before."""
        ...


class MemoryCounter:
    """Counts in this process; the counts of minutes that are over are dropped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, int], int] = {}

    def add(self, name: str, minute: int, amount: int) -> tuple[int, int]:
        """Add to a minute's count; return the new count, and the count of the minute before."""
        with self._lock:
            if (name, minute) not in self._counts:
                self._counts = {place: count for place, count in self._counts.items() if place[1] >= minute - 1}
            count = self._counts.get((name, minute), 0) + amount
            self._counts[name, minute] = count
            return count, self._counts.get((name, minute - 1), 0)


class ServerCounter:
    """Counts on a Redis or Valkey server.

    Args:
        url: The URL of the server.
    """

    def __init__(self, url: str) -> None:
        self._client = client_of(url, PATIENCE_S)

    def add(self, name: str, minute: int, amount: int) -> tuple[int, int]:
        """Add to a minute's count; return the new count, and the count of the minute before.

        Raises:
            redis.RedisError: The server does not answer, or refuses.
        """
        with self._client.pipeline(transaction=False) as pipeline:  # pyright: ignore[reportUnknownMemberType]
            pipeline.incrby(f"{PREFIX}{name}.{minute}", amount)
            pipeline.expire(f"{PREFIX}{name}.{minute}", KEPT_S)
            pipeline.get(f"{PREFIX}{name}.{minute - 1}")
            count, _, before = pipeline.execute()
        return int(count), int(before or 0)


class RateLimit:
    """Refuses the requests of a key beyond a number a minute.

    Args:
        shared: Counts for all processes.
    """

    def __init__(self, shared: Counter | None) -> None:
        self._shared, self._own = shared, MemoryCounter()
        self._rest_until = 0.0

    def check(self, name: str, most: int, now: float) -> None:
        """Count a request; a refused one does not count.

        Args:
            name: The id of the key.
            most: Requests that it may send in a minute.
            now: The present time, seconds since 1970.

        Raises:
            RequestError: The key has sent as many already (429); the answer says when the next one may come.
        """
        minute, past_s = divmod(now, WINDOW_S)
        count, before = self._add(name, int(minute), 1)
        if count + before * (1 - past_s / WINDOW_S) <= most:
            return
        self._add(name, int(minute), -1)
        raise RequestError(
            f"this key may send {most} requests a minute.",
            reason="rate_limit_exceeded",
            status=429,
            headers={"retry-after": str(wait_s(count - 1, before, most, past_s))},
        )

    def _add(self, name: str, minute: int, amount: int) -> tuple[int, int]:
        if self._shared is not None and time.monotonic() >= self._rest_until:
            try:
                return self._shared.add(name, minute, amount)
            except (redis.RedisError, OSError) as error:
                self._rest_until = time.monotonic() + REST_S
                logger.warning("requests are counted in memory for %.0f s: %s", REST_S, error)
        return self._own.add(name, minute, amount)


def wait_s(count: int, before: int, most: int, past_s: float) -> int:
    """Return the whole seconds after which one more request is within the limit.

    Args:
        count: Requests of the present minute.
        before: Requests of the minute before.
        most: The limit.
        past_s: Seconds of the present minute that have passed.
    """
    free = most - 1 - count
    if free >= 0:
        seconds = WINDOW_S * (1 - free / before) - past_s if before else 0.0
    else:
        seconds = WINDOW_S - past_s + WINDOW_S * max(0.0, 1 - (most - 1) / count)
    return min(WINDOW_S, max(1, math.ceil(seconds)))


def check_rate(name: str, settings: Settings | None = None) -> None:
    """Count a request of a key, unless the installation has no limit.

    Raises:
        RequestError: The key has sent too many (429).
    """
    settings = settings or get_settings()
    if settings.requests_per_minute:
        _limit(settings.broker).check(name, settings.requests_per_minute, time.time())


@lru_cache(maxsize=1)
def _limit(url: str) -> RateLimit:
    return RateLimit(ServerCounter(url) if url else None)
