"""``celora.sweep``: the only one that deletes artifacts: older checkpoints; data and logs of jobs that ended long ago.

What stays of a job for good is its row, its published adapter, its evaluation and the receipt of its data. The disks of
the machines are kept by their own workers (``workers.housekeeping``).
"""

import logging
from datetime import timedelta
from typing import Any, get_args

from ..models import retention
from ..models.database import Database, get_database, now
from ..models.states import Status
from ..models.tables import Job
from ..settings.errors import StorageError
from ..settings.settings import Settings, get_settings
from ..storage.artifacts import Artifacts
from ..tuning.protocol import Dtype
from . import champions
from .base import task

logger = logging.getLogger(__name__)

KEPT = frozenset({"receipt.json", "trackers"})
"""What stays of an attempt, whatever became of its job."""

RESULTS = frozenset({"evaluation", *(f"evaluation-{dtype}" for dtype in get_args(Dtype))})
"""What stays of a completed job's attempts beside that; the published adapter is known by its own row."""

KEPT_WORKER_DAYS = 7
"""An offline worker is listed for so long."""


@task("sweep", ignore_result=True, send_events=False)
def sweep(self: Any) -> None:  # noqa: ARG001  (Celery binds every task)
    """Remove what no live job needs."""
    settings, database = get_settings(), get_database()
    champions.mend(database, settings)
    sweep_artifacts(settings, database)
    sweep_record(database)


def sweep_artifacts(settings: Settings, database: Database) -> int:
    """Let old jobs go, and remove their files.

    Returns:
        The bytes that became free.
    """
    artifacts = Artifacts(settings.artifacts)
    days = settings.keep_checkpoint_days
    with database.session() as session:
        at = now(session)
        before = at - timedelta(days=days)
        candidates = retention.expired(session, before)
    freed = thin_out(settings, database, artifacts)
    for job_id in candidates:
        with database.transaction() as session:
            ours = retention.let_go(session, job_id, before)
        if ours:
            freed += _remove(database, artifacts, job_id, logs=False)
    with database.session() as session:
        old = retention.with_logs(session, at - timedelta(days=max(days, settings.keep_log_days)))
    for job_id in old:
        freed += _remove(database, artifacts, job_id, logs=True)
    if freed:
        logger.info("%.1f MiB of artifacts were swept", freed / 2**20)
    return freed


def sweep_record(database: Database) -> None:
    """Forget what tells nothing any more: workers long gone, and times of schedules long past."""
    with database.transaction() as session:
        workers = retention.forget_workers(session, now(session) - timedelta(days=KEPT_WORKER_DAYS))
        slots = retention.forget_slots(session)
    if workers or slots:
        logger.info("%d workers that are gone and %d old times of schedules were forgotten", workers, slots)


def thin_out(settings: Settings, database: Database, artifacts: Artifacts) -> int:
    """Keep the last checkpoints of each job, ended or not; the older ones only go where those that stay are there.

    Returns:
        The bytes that became free.
    """
    keep = settings.keep_checkpoints
    with database.session() as session:
        candidates = retention.crowded(session, keep)
    freed = 0
    for job_id in candidates:
        with database.session() as session:
            staying = retention.newest(session, job_id, keep)
        try:
            if not all(artifacts.committed(uri) for uri in staying):
                logger.warning("job %s: a newest checkpoint is not where it should be; the older ones stay", job_id)
                continue
            with database.transaction() as session:
                going = retention.supersede(session, job_id, keep)
            freed += sum(_remove_folder(artifacts, uri) for uri in going)
        except StorageError as error:
            logger.warning("the checkpoints of job %s could not all be swept: %s", job_id, error)
    return freed


def _remove(database: Database, artifacts: Artifacts, job_id: str, *, logs: bool) -> int:
    """Remove a job's files, its results aside; a storage that fails leaves them to the sweep of its logs."""
    root = artifacts.uri("jobs", job_id)
    with database.session() as session:
        published = retention.published_below(session, root)
        completed = session.get_one(Job, job_id).status is Status.COMPLETED
    kept = KEPT | RESULTS if completed else KEPT
    freed = 0
    try:
        for name in artifacts.names(root):
            if name.startswith("attempt-"):
                freed += _remove_attempt(artifacts, f"{root}/{name}", published, kept)
            elif logs and name == "logs":
                freed += _remove_folder(artifacts, f"{root}/{name}")
    except StorageError as error:
        logger.warning("the files of job %s could not all be swept: %s", job_id, error)
        return freed
    if logs:
        with database.transaction() as session:
            retention.logs_gone(session, job_id)
    return freed


def _remove_attempt(artifacts: Artifacts, uri: str, published: set[str], kept: frozenset[str]) -> int:
    names = artifacts.names(uri)
    going = [name for name in names if name not in kept and f"{uri}/{name}" not in published]
    if len(going) == len(names):
        return _remove_folder(artifacts, uri)
    return sum(_remove_folder(artifacts, f"{uri}/{name}") for name in going)


def _remove_folder(artifacts: Artifacts, uri: str) -> int:
    size = artifacts.size_bytes(uri)
    artifacts.remove(uri)
    logger.info("swept %s (%d bytes)", uri, size)
    return size
