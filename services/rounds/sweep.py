"""Deletes artifacts by age: older checkpoints; data and logs of jobs that ended long ago.

No other part of the product deletes artifacts. A job's row, published adapter, evaluation and the receipt of its
data stay for good. Each machine's own workers keep its disks bounded (``workers.lifecycle.housekeeping``).
"""

import logging
from datetime import timedelta
from typing import get_args

from ...errors import StorageError
from ...models.database import Database, now
from ...models.jobs import retention
from ...models.notifications.deliveries import forget_deliveries
from ...models.openai.data_checks import forget_checks
from ...models.scope.scope import Scope
from ...models.states import Status
from ...models.tables import Job
from ...settings.settings import Settings
from ...storage.artifacts import Artifacts
from ...tuning.protocol import Dtype
from ...workers import queues
from ...workers.celery import app
from ...workers.messages import UNREACHABLE

logger = logging.getLogger(__name__)

KEPT = frozenset({"receipt.json", "trackers"})
"""Parts of an attempt that stay for good, however its job ended."""

RESULTS = frozenset({"evaluation", *(f"evaluation-{dtype}" for dtype in get_args(Dtype))})
"""Further parts that stay of a completed job's attempts; the row of a published adapter names its folder."""

KEPT_WORKER_DAYS = 7
"""Days for which an offline worker is listed."""
KEPT_DELIVERY_DAYS = 30
"""Days for which the log keeps a delivery that has ended."""


def sweep_artifacts(settings: Settings, database: Database) -> int:
    """Drop the data of jobs that ended long ago, and remove their files.

    Returns:
        The bytes that became free.
    """
    artifacts = Artifacts(settings.artifacts)
    days = settings.keep_checkpoint_days
    with database.session(Scope.everything) as session:
        at = now(session)
        before = at - timedelta(days=days)
        candidates = retention.expired(session, before)
    freed = remove_older_checkpoints(settings, database, artifacts)
    for job_id in candidates:
        with database.transaction(Scope.everything) as session:
            dropped = retention.drop_job_data(session, job_id, before)
        if dropped:
            freed += _remove_job(database, artifacts, job_id, logs=False)
    with database.session(Scope.everything) as session:
        old = retention.with_logs(session, at - timedelta(days=max(days, settings.keep_log_days)))
    for job_id in old:
        freed += _remove_job(database, artifacts, job_id, logs=True)
    if freed:
        logger.info("%.1f MiB of artifacts were swept", freed / 2**20)
    return freed


def sweep_record(database: Database) -> None:
    """Delete rows by age: workers that left, old runs, deliveries that ended, and checks that expired.

    The queues of workers that left go first. Where the broker is away, the rows that name them stay for a later sweep.
    """
    with database.session(Scope.everything) as session:
        before = now(session) - timedelta(days=KEPT_WORKER_DAYS)
        unread = retention.queues_of_gone_workers(session, before)
    queues_are_gone = not unread or _delete_queues(unread)
    with database.transaction(Scope.everything) as session:
        workers = retention.forget_workers(session, before) if queues_are_gone else 0
        runs = retention.forget_runs(session)
        forget_deliveries(session, now(session) - timedelta(days=KEPT_DELIVERY_DAYS))
        forget_checks(session)
    if workers or runs:
        logger.info("the rows of %d offline workers and of %d old runs of schedules were deleted", workers, runs)


def _delete_queues(names: list[str]) -> bool:
    """Delete queues in the broker; return False where it cannot be reached. The record sends what was in them again."""
    try:
        dropped = queues.delete(app, names)
    except UNREACHABLE as error:
        logger.warning("the queues of %d workers that left stay until a later sweep (%s)", len(names), error)
        return False
    if dropped:
        logger.info("%d messages to workers that left were dropped", dropped)
    return True


def remove_older_checkpoints(settings: Settings, database: Database, artifacts: Artifacts) -> int:
    """Remove all but the last checkpoints of each job, ended or not; only where the last ones are in their place.

    Returns:
        The bytes that became free.
    """
    keep = settings.keep_checkpoints
    with database.session(Scope.everything) as session:
        candidates = retention.with_many_checkpoints(session, keep)
    freed = 0
    for job_id in candidates:
        with database.session(Scope.everything) as session:
            staying = retention.newest(session, job_id, keep)
        try:
            if not all(artifacts.committed(uri) for uri in staying):
                logger.warning("job %s: a newest checkpoint is not where it should be; the older ones stay", job_id)
                continue
            with database.transaction(Scope.everything) as session:
                going = retention.supersede(session, job_id, keep)
            freed += sum(_remove_folder(artifacts, uri) for uri in going)
        except StorageError as error:
            logger.warning("the checkpoints of job %s could not all be swept: %s", job_id, error)
    return freed


def _remove_job(database: Database, artifacts: Artifacts, job_id: str, *, logs: bool) -> int:
    """Remove a job's files except its results; where the storage fails, the sweep of its logs removes the rest."""
    root = artifacts.uri("jobs", job_id)
    with database.session(Scope.everything) as session:
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
        with database.transaction(Scope.everything) as session:
            retention.mark_logs_removed(session, job_id)
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
