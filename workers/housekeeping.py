"""Keeps this machine's disks bounded: scratch folders and the caches of prepared data and base models.

Every worker does it, at its start and each hour, because the control worker sees no other machine's disks; of the
workers of one machine, one does it at a time, and not again within the hour. What a live job of the record needs stays:
its present attempt's scratch, and its base. ``celora.sweep`` does the same for the artifacts.
"""

import contextlib
import fcntl
import logging
import shutil
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from ..models.database import Database, get_database
from ..models.states import Status
from ..models.tables import Job
from ..settings.errors import CeloraError
from ..settings.settings import Settings, get_settings
from ..tuning import cache, reuse
from .markers import Markers

logger = logging.getLogger(__name__)

EVERY_S = 3600.0
QUIET_S = 3600.0
"""Scratch of an ended job may be an evaluation's that is repeated right now; untouched for so long, it is nobody's."""

STRANGE_S = 7 * 86400.0
"""A folder of the scratch that is no job of this record may be another record's, or a copy that a command made."""

ENDED = tuple(status for status in Status if status.final)


def watch(stop: threading.Event) -> threading.Thread:
    """Keep house on a thread of its own until ``stop``."""

    def keep() -> None:
        pause_s = 0.0
        while not stop.wait(pause_s):
            pause_s = EVERY_S
            try:
                keep_house(get_settings(), get_database())
            except (CeloraError, SQLAlchemyError, OSError) as error:
                logger.warning("this machine's folders could not be swept (%s); tried again in an hour", error)

    thread = threading.Thread(target=keep, name="housekeeping", daemon=True)
    thread.start()
    return thread


def keep_house(settings: Settings, database: Database, *, every_s: float = EVERY_S) -> int:
    """Remove from this machine's disks what no live job needs; returns the bytes, 0 where another worker did it."""
    folder = settings.home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    with _turn(folder / "housekeeping.lock", every_s) as ours:
        if not ours:
            return 0
        Markers(folder).sweep()
        freed = sweep_scratch(settings, database) + sweep_caches(settings, database)
    if freed:
        logger.info("%.1f MiB were swept from this machine", freed / 2**20)
    return freed


def sweep_scratch(settings: Settings, database: Database) -> int:
    """Remove the scratch of ended jobs and of attempts that are over; returns the bytes."""
    if not settings.scratch.is_dir():
        return 0
    names = sorted(path.name for path in settings.scratch.iterdir())
    with database.session() as session:
        rows = session.execute(select(Job.id, Job.status, Job.attempt).where(Job.id.in_(names)))
        known = {job_id: (status, attempt) for job_id, status, attempt in rows}
    freed = 0
    for name in names:
        for folder, quiet_s in _idle(settings.scratch / name, known.get(name)):
            size, used_at = cache.extent(folder)
            if time.time() - used_at > quiet_s:
                shutil.rmtree(folder, ignore_errors=True)
                logger.info("swept the scratch %s (%d bytes)", folder, size)
                freed += size
    return freed


def sweep_caches(settings: Settings, database: Database) -> int:
    """Remove from the caches what nobody used for long, and the longest unused above their sizes."""
    freed = reuse.sweep(settings.cache, settings.keep_prepared_days, settings.prepared_bytes)
    live = select(Job.base, Job.spec).where(Job.status.not_in(ENDED))
    with database.session() as session:
        needed = {str((base or {}).get("name") or spec.get("base_model")) for base, spec in session.execute(live)}
    return freed + cache.sweep(settings.cache, settings.keep_base_days, settings.cache_bytes, needed)


def _idle(folder: Path, known: tuple[Status, int] | None) -> Iterator[tuple[Path, float]]:
    """What of a job's scratch nobody needs, and how long it must have been untouched."""
    if known is None:
        yield folder, STRANGE_S
        return
    status, attempt = known
    if status.final:
        yield folder, QUIET_S
        return
    for path in folder.glob("attempt-*"):
        number = path.name.removeprefix("attempt-")
        if number.isdigit() and int(number) < attempt:
            yield path, QUIET_S


@contextlib.contextmanager
def _turn(lock: Path, every_s: float) -> Generator[bool]:
    """Whether it is this process's turn: no other one is at it, or was within ``every_s``."""
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            began_at = time.time()
            file.seek(0)
            last = file.read().strip()
            ours = not last or not 0 <= began_at - float(last) < every_s
            yield ours
            if ours:
                file.truncate(0)
                file.write(str(began_at))
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked meanwhile holds the file, too
