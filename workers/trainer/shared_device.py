"""Shares the device of a worker with several slots between runs in its trainer host and stages with own processes.

The runs of a host share the device, since the host gives them turns. A stage with a process of its own has the device
alone, because nothing keeps the memory of both within it. Both are flocks of one file, which the system releases when
its holder dies. Whoever enters holds a second lock until it is inside, the turnstile of the readers-writers problem
(Downey, The Little Book of Semaphores, 4.2): runs that share the device do not overtake a process that waits for it.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ...models.columns import DEVICE_S
from ...storage.file_lock import try_lock
from ...tuning.trainer.host_messages import OVER, WAITING, WAITING_S
from .hosts import HostPlace, drop_base, lock_of_device

POLL_S = 0.1


class DeviceLock:
    """Holds the lock of a worker's device for one stage.

    Args:
        path: The file that is locked; that of the turnstile has ``.turnstile`` behind its name.
        wait: Called in each round of waiting; it raises where the stage has to end.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, path: Path, wait: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._wait, self._clock = path, wait, clock
        self._file: IO[str] | None = None
        self._alone_since: float | None = None

    @property
    def alone_s(self) -> float | None:
        """Return the seconds for which the stage has had the device alone; None where it does not have it alone."""
        return None if self._alone_since is None else round(self._clock() - self._alone_since, 3)

    def share(self) -> None:
        """Wait until nobody has the device alone, and hold it with others."""
        self._enter(shared=True)

    def take_alone(self) -> None:
        """Wait until nobody else has the device, and hold it alone."""
        self._enter(shared=False)
        self._alone_since = self._clock()

    def leave(self) -> None:
        """Give the device up; nothing happens without a hold."""
        if self._file is not None:
            self._file.close()
        self._file, self._alone_since = None, None

    def _enter(self, *, shared: bool) -> None:
        self.leave()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_name(f"{self._path.name}.turnstile").open("a", encoding="utf-8") as turnstile:
            while not try_lock(turnstile):
                self._pause()
            file = self._path.open("a", encoding="utf-8")
            try:
                while not try_lock(file, shared=shared):
                    self._pause()
            except BaseException:
                file.close()
                raise
            self._file = file

    def _pause(self) -> None:
        self._wait()
        time.sleep(POLL_S)


class SharedDevice:
    """Holds the device of a worker for one run, and counts its time there; with one slot it does nothing.

    Args:
        place: The place of the worker's host.
        on_event: Gets the events of the run.
        check: Raises the ending of a run that must not begin any more.
    """

    def __init__(self, place: HostPlace, on_event: Callable[[dict[str, Any]], None], check: Callable[[], None]) -> None:
        self._place, self._on_event, self._check = place, on_event, check
        self._lock = DeviceLock(lock_of_device(place), self._wait) if place.slots > 1 else None
        self._next_event_at = 0.0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._lock is None:
            return
        try:
            if self._lock.alone_s is not None:
                self.handle({"event": "phase", "phase": OVER, "done": None, "total": None})
        finally:
            self._lock.leave()

    def share(self) -> None:
        """Hold the device with the other runs of the host."""
        if self._lock is not None:
            self._lock.share()

    def take_alone(self) -> None:
        """Hold the device for a process, which finds no base of an empty host on it."""
        if self._lock is not None:
            self._lock.take_alone()
            drop_base(self._place)

    def handle(self, event: dict[str, Any]) -> None:
        """Pass an event on, with the seconds for which the run has had the device alone."""
        alone_s = None if self._lock is None else self._lock.alone_s
        if alone_s is not None and event["event"] in ("phase", "progress"):
            event = {**event, DEVICE_S: alone_s}
        self._on_event(event)

    def _wait(self) -> None:
        self._check()
        if time.monotonic() >= self._next_event_at:
            self._next_event_at = time.monotonic() + WAITING_S
            self._on_event({"event": "phase", "phase": WAITING, "done": None, "total": None, DEVICE_S: 0.0})
