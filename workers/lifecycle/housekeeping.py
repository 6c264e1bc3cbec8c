"""Keeps this machine's disks bounded: scratch folders and the caches of prepared data and base models.

Every worker sweeps at its start and each hour, because the control worker cannot reach the disks of other machines. The
workers of one machine share a lock: one sweeps at a time, and not again within the hour. The scratch of a live job's
present attempt and its base stay. ``celora.sweep`` does the same for the artifacts.
"""

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from ...errors import CeloraError
from ...models.database import Database, get_database
from ...models.scope.scope import Scope
from ...models.states import Status
from ...models.tables import Job
from ...settings.settings import Settings, get_settings
from ...storage.file_lock import locked_if_free
from ...tuning.bases import cache
from ...tuning.evaluation import base_results
from ...tuning.prepare import prepared_cache
from ..signal_files import Markers

logger = logging.getLogger(__name__)

EVERY_S = 3600.0
QUIET_S = 3600.0
"""Age at which untouched scratch of an ended job is swept; a younger one may belong to a repeated evaluation."""

STRANGE_S = 7 * 86400.0
"""Age at which untouched scratch of an unknown job is swept; it may be another record's, or a copy of a command."""

ENDED = tuple(status for status in Status if status.final)


def watch(stop: threading.Event) -> threading.Thread:
    """Sweep this machine's disks on a thread until ``stop``; no error ends the thread."""

    def keep() -> None:
        pause_s = 0.0
        while not stop.wait(pause_s):
            pause_s = EVERY_S
            try:
                keep_house(get_settings(), get_database())
            except (CeloraError, SQLAlchemyError, OSError) as error:
                logger.warning("this machine's folders could not be swept (%s); tried again in an hour", error)
            except Exception:
                logger.exception("this machine's folders could not be swept; tried again in an hour")

    thread = threading.Thread(target=keep, name="housekeeping", daemon=True)
    thread.start()
    return thread


def keep_house(settings: Settings, database: Database, *, every_s: float = EVERY_S) -> int:
    """Remove the files that no live job needs from this machine; return the bytes, 0 where another worker did it."""
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
    """Remove the scratch of ended jobs and of attempts that are over; return the bytes."""
    if not settings.scratch.is_dir():
        return 0
    names = sorted(path.name for path in settings.scratch.iterdir())
    with database.session(Scope.everything) as session:
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
    """Remove the entries of the caches that are past their time, and the least recently used above their sizes."""
    freed = prepared_cache.sweep(settings.cache, settings.keep_prepared_days, settings.prepared_bytes)
    freed += base_results.sweep(settings.cache, settings.keep_prepared_days)
    live = select(Job.base, Job.spec).where(Job.status.not_in(ENDED))
    with database.session(Scope.everything) as session:
        needed = {str((base or {}).get("name") or spec.get("base_model")) for base, spec in session.execute(live)}
    return freed + cache.sweep(settings.cache, settings.keep_base_days, settings.cache_bytes, needed)


def _idle(folder: Path, known: tuple[Status, int] | None) -> Iterator[tuple[Path, float]]:
    """Yield the folders of a job's scratch that no process needs, each with the age at which it is swept."""
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
    """Hold the lock; yield True unless another process holds it or swept within ``every_s``."""
    with locked_if_free(lock) as file:
        if file is None:
            yield False
            return
        began_at = time.time()
        file.seek(0)
        ours = not 0 <= began_at - _time_in(file.read()) < every_s
        yield ours
        if ours:
            file.truncate(0)
            file.write(str(began_at))


def _time_in(text: str) -> float:
    """Parse the time of the last sweep; a crash of the machine may leave other bytes, which count as long ago."""
    try:
        return float(text)
    except ValueError:
        return 0.0
