"""Feeds the streams of events: one reader of the record for all streams of a process, and none while there is none.

A stream that asked the record by itself would cost reads all the time, whatever happens. Here one read a second brings
the new events of every watched job, and each stream gets those that it has not sent yet. A stream reads the events that
were there before it was opened by itself.

The keys that opened the streams are judged before each read, so a stream ends within seconds of the end of its key.
"""

import asyncio
import contextlib
import logging
from collections.abc import Generator
from enum import Enum

import anyio.to_thread

from ..errors import CeloraError
from ..services.native.event_news import News, read_news
from ..services.tenants import keys
from ..services.tenants.job_views import EventLine

logger = logging.getLogger(__name__)

EVERY_S = 1.0
"""Seconds between two reads."""
MOST_HELD = 1_000
"""Events that a stream may have left to send before the reader leaves it out; its client reads too slowly."""


class End(Enum):
    """The reason why a stream ends."""

    JOB = "the job has ended, and every event is sent"
    KEY = "the key that opened the stream was revoked or has expired"
    FAULT = "an event of the job cannot be read"


class Watcher:
    """Holds the events of a job that a stream has left to send.

    Args:
        job_id: The job.
        after_id: The id of the last event that the stream has.
        key_id: The key that opened the stream; empty without one.
    """

    def __init__(self, job_id: str, after_id: int, key_id: str) -> None:
        self.job_id, self.after_id, self.key_id = job_id, after_id, key_id
        self.end: End | None = None
        """The reason why the stream ends, once it does."""
        self._lines: list[EventLine] = []
        self._changed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """True while the stream has too much left to send."""
        return len(self._lines) >= MOST_HELD

    def add(self, news: News) -> None:
        """Add the events of the stream's job that it does not have yet."""
        new = [line for line in news.lines.get(self.job_id, ()) if line.id > self.after_id]
        self._lines += new
        if new:
            self.after_id = new[-1].id
            self._changed.set()
        if self.job_id in news.ended:
            self.end_by(End.JOB)
        elif self.job_id in news.faulty:
            self.end_by(End.FAULT)

    def end_by(self, end: End) -> None:
        """End the stream; where its key does not hold any more, it sends nothing of what it has left."""
        self.end = end
        if end is End.KEY:
            self._lines = []
        self._changed.set()

    async def take(self, within_s: float) -> tuple[list[EventLine], End | None]:
        """Return the events since the last call, after waiting for some, and the reason if the stream ends after them.

        Args:
            within_s: Seconds after which an empty list is returned.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._changed.wait()
        if self.end is None:
            self._changed.clear()
        lines, self._lines = self._lines, []
        return lines, self.end


class EventWatch:
    """Reads for all streams of a process."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """True while a stream is open."""
        return bool(self._watchers)

    @contextlib.contextmanager
    def watch(self, job_id: str, after_id: int, key_id: str) -> Generator[Watcher]:
        """Read for a stream while the context is open."""
        watcher = Watcher(job_id, after_id, key_id)
        self._watchers.add(watcher)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    async def close(self) -> None:
        """End the reader."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while self._watchers:
            more = False
            try:
                more = await self._read()
            except CeloraError as error:
                logger.warning("streams of events wait: %s", error)
            except Exception:
                logger.exception("streams of events wait")
            await asyncio.sleep(0 if more else EVERY_S)

    async def _read(self) -> bool:
        """Read once, and give each stream its events; return True if more wait.

        A stream that was opened during the read gets none: the read began after the events of another stream.
        """
        open_ones = [watcher for watcher in self._watchers if watcher.end is None]
        held = await anyio.to_thread.run_sync(keys.in_force, {watcher.key_id for watcher in open_ones})
        for watcher in open_ones:
            if watcher.key_id not in held:
                watcher.end_by(End.KEY)
        watchers = [watcher for watcher in open_ones if watcher.end is None and not watcher.is_full]
        after = dict[str, int]()
        for watcher in watchers:
            after[watcher.job_id] = min(watcher.after_id, after.get(watcher.job_id, watcher.after_id))
        if not after:
            return False
        news = await anyio.to_thread.run_sync(read_news, after)
        for watcher in watchers:
            watcher.add(news)
        return news.more
