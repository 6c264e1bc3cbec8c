"""Finds the present content of a schedule's data: the newest version of a name, or a file that is read when it changed.

The size, the times and the inode of a file are compared first, and only a file that differs is read. The service reads
a copy, since a file may grow while it is read; the content becomes a version of the file's own name, so that a job
trains on the data that was checked. A file that is being read is not read a second time: the lock is the kernel's, and
ends with the process.
"""

import os
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import LimitError
from ..models import datasets as versions
from ..models.database import get_database
from ..models.scope.scope import Scope
from ..models.tables.schedule import Schedule
from ..settings.settings import Settings
from ..storage.file_lock import locked_if_free
from ..storage.regular_files import open_confined
from ..tuning.files.sources import is_remote
from ..tuning.semantics import MEANING
from . import datasets

CHUNK_BYTES = 1 << 20

Looked = dict[str, Any]
"""For each file its ``mark`` when it was last read, and the ``reference`` and ``sha256`` of the version that it
became."""


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a dataset at a moment: NAME@VERSION, and the hash of its bytes."""

    reference: str
    sha256: str

    def plain(self) -> dict[str, str]:
        """Return the content as the record keeps it, with the version of celora's data semantics."""
        return {"reference": self.reference, "sha256": self.sha256, "semantics": MEANING}

    def differs(self, seen: Mapping[str, Any]) -> bool:
        """Check if the content, or celora's data semantics, differ from those that the record keeps."""
        return (self.sha256, MEANING) != (seen["sha256"], seen.get("semantics"))

    def run_key(self, seen: Mapping[str, Any]) -> str:
        """Return the key of this content's run: its reference, with the semantics' version where only that differs."""
        return self.reference if self.sha256 != seen["sha256"] else f"{self.reference}+{MEANING}"


def is_file(source: str, settings: Settings) -> bool:
    """Check if a source is a file outside the artifacts: no name, no URL, no artifact."""
    inside = source.startswith(settings.artifacts.rstrip("/") + "/")
    return not inside and not is_remote(source) and versions.Reference.parse(source) is None


def content(source: str, *, tenant: str, settings: Settings, looked: Looked) -> Content:
    """Return the present content of a name or a file; a changed file becomes a version, and ``looked`` gets its mark.

    Raises:
        NotFoundError: There is no dataset of that name.
        DataError: The file is gone, lies outside the allowed folders, or has bad lines.
    """
    if not is_file(source, settings):
        with get_database().session(Scope.of(tenant)) as session:
            found = versions.find(session, tenant, source)
        return Content(f"{found.name}@{found.version}", found.sha256)
    with open_confined(source, settings.allowed_roots) as file:
        mark = _mark(file)
        known = looked.get(source)
        if known is not None and known["mark"] == mark:
            return Content(known["reference"], known["sha256"])
        with _snapshot(file, Path(source).name, settings.prepare_file_bytes) as copy:
            made = datasets.add(copy, name=versions.name_of(Path(source)), tenant=tenant)
    found = Content(f"{made['name']}@{made['version']}", made["sha256"])
    looked[source] = {"mark": mark, **found.plain()}
    return found


def with_version(fields: Mapping[str, Any], settings: Settings, looked: Looked) -> dict[str, Any]:
    """Return a job's fields; a dataset that is a file is replaced by the version of its present content.

    Raises:
        DataError: The file is gone or has bad lines.
    """
    source = str(fields["dataset"])
    if not is_file(source, settings):
        return dict(fields)
    found = content(source, tenant=str(fields.get("tenant", "default")), settings=settings, looked=looked)
    return {**fields, "dataset": found.reference}


def new_rows(now: Content, since: Mapping[str, Any], *, tenant: str, looked: Looked) -> int:
    """Return the number of a content's rows that an earlier content lacks; counted once for each pair."""
    pair = [now.sha256, since["sha256"]]
    counted = looked.get("counted")
    if counted is not None and counted["pair"] == pair:
        return int(counted["rows"])
    rows = datasets.count_new(now.reference, str(since["reference"]), tenant=tenant)
    looked["counted"] = {"pair": pair, "rows": rows}
    return rows


@contextmanager
def claimed_file(schedule: Schedule, settings: Settings) -> Generator[bool]:
    """Claim the schedule's file for the block; yields False while another process of this machine reads the file."""
    if not is_file(str(schedule.spec["dataset"]), settings):
        yield True
        return
    with locked_if_free(settings.home / "run" / f"schedule-{schedule.id}.lock") as lock:
        yield lock is not None


@contextmanager
def _snapshot(file: BinaryIO, name: str, most_bytes: int) -> Generator[Path]:
    """Copy an open file of at most ``most_bytes`` into a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="celora-snapshot-") as folder:
        copy, left = Path(folder) / name, most_bytes
        with copy.open("wb") as target:
            while chunk := file.read(CHUNK_BYTES):
                left -= len(chunk)
                if most_bytes and left < 0:
                    raise LimitError(
                        f"the dataset {name} is larger than {most_bytes / 2**30:.3g} GiB.",
                        hint="Split it, or let an operator raise CELORA_PREPARE_FILE_BYTES.",
                    )
                target.write(chunk)
        yield copy


def _mark(file: BinaryIO) -> list[int]:
    stat = os.fstat(file.fileno())
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
