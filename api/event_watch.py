"""Feeds the streams of events: one reader of the record for all streams of a process, and none while there is none.

A stream that asked the record by itself would cost reads all the time, whatever happens. Here one read a second brings
the new events of every watched job, and each stream gets those that it has not sent yet. A stream reads the events that
were there before it was opened by itself.
"""

import asyncio
import contextlib
import logging
from collections.abc import Generator

import anyio.to_thread

from ..errors import CeloraError
from ..services.native.event_news import News, read_news
from ..services.tenants.job_views import EventLine

logger = logging.getLogger(__name__)

EVERY_S = 1.0
"""Seconds between two reads."""
MOST_HELD = 1_000
"""Events that a stream may have left to send before the reader leaves it out; its client reads too slowly."""


class Watcher:
    """Holds the events of a job that a stream has left to send.

    Args:
        job_id: The job.
        after_id: The id of the last event that the stream has.
    """

    def __init__(self, job_id: str, after_id: int) -> None:
        self.job_id, self.after_id = job_id, after_id
        self._lines: list[EventLine] = []
        self._ended = False
        self._changed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """True while the stream has too much left to send."""
        return len(self._lines) >= MOST_HELD

    def add(self, news: News) -> None:
        """Add the events of the stream's job that it does not have yet."""
        new = [line for line in news.lines.get(self.job_id, ()) if line.id > self.after_id]
        self._lines += new
        self._ended = self._ended or self.job_id in news.ended
        if new:
            self.after_id = new[-1].id
        if new or self._ended:
            self._changed.set()

    async def take(self, within_s: float) -> tuple[list[EventLine], bool]:
        """Return the events since the last call, after waiting for some; the second value is True after the job's end.

        Args:
            within_s: Seconds after which an empty list is returned.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._changed.wait()
        self._changed.clear()
        lines, self._lines = self._lines, []
        return lines, self._ended


class EventWatch:
    """Reads for all streams of a process."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def watch(self, job_id: str, after_id: int) -> Generator[Watcher]:
        """Read for a stream while the context is open."""
        watcher = Watcher(job_id, after_id)
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
        watchers = [watcher for watcher in self._watchers if not watcher.is_full]
        after = dict[str, int]()
        for watcher in watchers:
            after[watcher.job_id] = min(watcher.after_id, after.get(watcher.job_id, watcher.after_id))
        if not after:
            return False
        news = await anyio.to_thread.run_sync(read_news, after)
        for watcher in watchers:
            watcher.add(news)
        return news.more
