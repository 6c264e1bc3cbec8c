"""What a schedule's data is now: the newest version of a name, or a file that is read again when it changed.

A file is looked at by its size, times and inode first, and only one that differs is read. What is read is a copy, since
a file that grows does so while it is read, too; its content becomes a version of the file's own name, so that a job
trains on what was checked. A file that is being read is not read a second time: the lock is the kernel's, and goes with
a process that dies.
"""

import fcntl
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models import datasets as versions
from ..models.database import get_database
from ..models.schedule_tables import Schedule
from ..settings.errors import DataError
from ..settings.settings import Settings
from ..storage.paths import confine
from ..tuning.sources import is_remote
from . import datasets

Looked = dict[str, Any]
"""What each file was when it was last read: its ``mark``, and the ``reference`` and ``sha256`` that it became."""


@dataclass(frozen=True, slots=True)
class Content:
    """A dataset as it is at a moment: NAME@VERSION, and the hash of what it holds."""

    reference: str
    sha256: str

    def plain(self) -> dict[str, str]:
        """As the record keeps it."""
        return {"reference": self.reference, "sha256": self.sha256}


def is_file(source: str, settings: Settings) -> bool:
    """Whether a source is a file that has to be taken in: no name, no URL, no artifact."""
    inside = source.startswith(settings.artifacts.rstrip("/") + "/")
    return not inside and not is_remote(source) and versions.Reference.parse(source) is None


def content(source: str, *, tenant: str, settings: Settings, looked: Looked) -> Content:
    """What a name or a file holds now; a file that changed is taken in, and ``looked`` told.

    Raises:
        NotFoundError: There is no dataset of that name.
        DataError: The file is gone, lies outside the allowed folders, or has bad lines.
    """
    if not is_file(source, settings):
        with get_database().session() as session:
            found = versions.find(session, tenant, source)
        return Content(f"{found.name}@{found.version}", found.sha256)
    path = confine(source, settings.allowed_roots)
    mark = _mark(path)
    known = looked.get(source)
    if known is not None and known["mark"] == mark:
        return Content(known["reference"], known["sha256"])
    with tempfile.TemporaryDirectory(prefix="celora-snapshot-") as folder:
        copy = shutil.copyfile(path, Path(folder) / Path(source).name)
        made = datasets.add(copy, name=versions.name_of(Path(source)), tenant=tenant)
    found = Content(f"{made['name']}@{made['version']}", made["sha256"])
    looked[source] = {"mark": mark, **found.plain()}
    return found


def taken_in(fields: Mapping[str, Any], settings: Settings, looked: Looked) -> dict[str, Any]:
    """A job's fields with its training file, where it is one, replaced by the version that it is now.

    Raises:
        DataError: The file is gone or has bad lines.
    """
    source = str(fields["dataset"])
    if not is_file(source, settings):
        return dict(fields)
    found = content(source, tenant=str(fields.get("tenant", "default")), settings=settings, looked=looked)
    return {**fields, "dataset": found.reference}


def new_rows(now: Content, since: Mapping[str, Any], *, tenant: str, looked: Looked) -> int:
    """How many rows a content has that an earlier one had not; counted once for each pair."""
    pair = [now.sha256, since["sha256"]]
    counted = looked.get("counted")
    if counted is not None and counted["pair"] == pair:
        return int(counted["rows"])
    rows = datasets.count_new(now.reference, str(since["reference"]), tenant=tenant)
    looked["counted"] = {"pair": pair, "rows": rows}
    return rows


@contextmanager
def alone(schedule: Schedule, settings: Settings) -> Generator[bool]:
    """Whether nobody else on this machine reads the schedule's file; until the end of the block."""
    if not is_file(str(schedule.spec["dataset"]), settings):
        yield True
        return
    path = settings.home / "run" / f"schedule-{schedule.id}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _mark(path: Path) -> list[int]:
    try:
        with path.open("rb"):
            stat = path.stat()
    except OSError as error:
        raise DataError(
            f"the dataset {path} can't be read: {error.strerror}.",
            hint="Put the file (back) there, or give the schedule another one.",
        ) from error
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]
