"""Locks a file between processes of one machine (flock); the system releases the lock when its process ends.

The lock is released explicitly as well, because a child that was forked inside the block holds the same open file.
"""

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def try_lock(file: IO[str], *, shared: bool = False) -> bool:
    """Lock an open file until it is closed by this process and by every child that it was passed to.

    Args:
        file: The open file.
        shared: True if other shared holders may hold the lock at the same time.

    Returns:
        False, and nothing is locked, where another process holds the lock.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Generator[IO[str]]:
    """Wait for the lock and hold it until the end of the block.

    Args:
        path: The file; it and its folder are made where they are missing.
        shared: True if other shared holders may hold the lock at the same time.

    Yields:
        The open file, into which its holder may write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        try:
            yield file
        finally:
            file.flush()
            fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def locked_if_free(path: Path) -> Generator[IO[str] | None]:
    """Hold the lock until the end of the block, or yield None at once where another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if not try_lock(file):
            yield None
            return
        try:
            yield file
        finally:
            file.flush()
            fcntl.flock(file, fcntl.LOCK_UN)


def is_locked(path: Path) -> bool:
    """Return whether a process holds the exclusive lock of a file now; a missing file is not locked."""
    try:
        with path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
