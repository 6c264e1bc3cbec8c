"""Receives a file in parts: writes each part once below the artifact root, and names the file by its content's hash.

Equal contents are stored once. A file that is given up leaves nothing; what a killed process left behind is removed by
age (``remove_abandoned``).
"""

import hashlib
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from .artifacts import Artifacts

FOLDER = "datasets"
PREFIX = ".incoming-"
ABANDONED_S = 86400.0
"""Age above which an incoming file belongs to no running upload."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A content in the artifacts."""

    uri: str
    sha256: str
    size_bytes: int


class IncomingFile:
    """A file that arrives; used as a context, which removes the file unless it was committed.

    Args:
        artifacts: Where it is stored.
    """

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._uri = artifacts.uri(FOLDER, f"{PREFIX}{int(time.time())}-{uuid.uuid4().hex}")
        self._target: Any = None
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.abandon()

    def write(self, part: bytes) -> None:
        """Write and hash the next part.

        Raises:
            DiskFullError, StorageError: It could not be written.
        """
        with self._artifacts.translated(self._uri):
            if self._target is None:
                self._target = self._artifacts.open_new(self._uri)
            self._target.write(part)
        self._digest.update(part)
        self.size_bytes += len(part)

    @property
    def sha256(self) -> str:
        """The SHA-256 of what has arrived."""
        return self._digest.hexdigest()

    def commit(self, container: str) -> Stored:
        """Give the file its place, named by its content.

        Args:
            container: The suffix that tells its kind, as ``.jsonl``.
        """
        self.write(b"")
        sha256 = self.sha256
        uri = self._artifacts.uri(FOLDER, sha256, f"data{container}")
        with self._artifacts.translated(self._uri):
            self._close()
            self._artifacts.move_new(self._uri, uri)
        return Stored(uri=uri, sha256=sha256, size_bytes=self.size_bytes)

    def commit_at(self, uri: str) -> None:
        """Give the file a place of its own, under a name that nothing has yet."""
        self.write(b"")
        with self._artifacts.translated(self._uri):
            self._close()
            self._artifacts.move_new(self._uri, uri)

    def abandon(self) -> None:
        """Remove what has arrived; do nothing after a commit."""
        if self._target is not None:
            with suppress(Exception):
                self._close()
        self._artifacts.remove(self._uri)

    def _close(self) -> None:
        target, self._target = self._target, None
        if target is not None:
            with suppress(OSError, AttributeError, ValueError):  # only a local file has a descriptor
                target.flush()
                os.fsync(target.fileno())
            target.close()


def remove_abandoned(artifacts: Artifacts, older_than_s: float = ABANDONED_S) -> int:
    """Remove the incoming files of processes that died; return their number."""
    before = time.time() - older_than_s
    names = [name for name in artifacts.names(artifacts.uri(FOLDER)) if name.startswith(PREFIX)]
    old = [name for name in names if _begun_at(name) < before]
    for name in old:
        artifacts.remove(artifacts.uri(FOLDER, name))
    return len(old)


def _begun_at(name: str) -> float:
    """Read the time in an incoming file's name; those of ``celora submit`` have none, and count as new."""
    begun = name.removeprefix(PREFIX).partition("-")[0]
    return float(begun) if begun.isdigit() and len(begun) < len(str(2**40)) else time.time()
