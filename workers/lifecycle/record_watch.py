"""Detects that the record's file was removed or replaced under a running worker (SQLite only).

SQLite keeps writing into the file that it opened, also after that file was removed or replaced; a worker would serve a
record that no other process reads. Only a new process can open the replacement, because every process of the worker has
the old file open.
"""

from enum import Enum, auto
from pathlib import Path

from sqlalchemy import URL


class RecordState(Enum):
    """The state of the record's file compared with the worker's start."""

    SAME = auto()
    GONE = auto()
    REPLACED = auto()


class RecordWatch:
    """Compares the record's file with the first file that was found.

    Args:
        url: The record's URL; the record of a database server always counts as the same.
    """

    def __init__(self, url: URL) -> None:
        local = url.get_backend_name() == "sqlite" and url.database
        self.path = Path(str(url.database)) if local else None
        self._first: tuple[int, int] | None = None

    def state(self) -> RecordState:
        """Return the state of the file now; the first file that is found is the worker's."""
        if self.path is None:
            return RecordState.SAME
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return RecordState.GONE
        identity = (found.st_dev, found.st_ino)
        if self._first is None:
            self._first = identity
        return RecordState.SAME if identity == self._first else RecordState.REPLACED
