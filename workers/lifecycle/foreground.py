"""Runs one job in this process, from its present stage to its end: ``celora run-job``.

Unusual: no message is sent for the job. The record marks the job as sent and claimed like any other, under the same
lease and by the same tasks. A worker that claims the job too is refused, and the reaper takes the job back if this
process is lost. The command is for clusters that queue their own jobs, and give each a process and a GPU of its own.
"""

import logging
import platform
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery import Task
from celery.exceptions import Ignore
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ...errors import CeloraError, SettingsError, UnavailableError, of_code
from ...models import queries
from ...models.columns import error_of
from ...models.database import Database, now
from ...models.jobs import transitions
from ...models.scope.scope import Scope
from ...models.states import Stage, Status
from ...models.tables import Job, Worker
from ...models.tenants.limits import limits_of
from ...scheduling import explain
from ...settings.settings import Settings
from .. import queues
from ..gpu import Device
from ..stages.claimed import drain_on
from .presence import Presence

logger = logging.getLogger(__name__)

DRAINED = 75
"""Exit code (EX_TEMPFAIL): the job was returned to the queue, and the next process continues it."""

CANCELLED = 130
"""Exit code: a person ended the job."""

POLL_S = 1.0
RETRY_S = 5.0

Tasks = Mapping[Stage, Task[Any, Any]]
"""The task of each stage."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The next step for a job: run a stage, wait for a reason, or exit with a code, since the job has ended."""

    stage: Stage | None = None
    attempt: int = 0
    publication: int = 0
    wait: str = ""
    exit_code: int | None = None


def run(
    database: Database,
    settings: Settings,
    job_id: str,
    *,
    device: Device,
    leaving: threading.Event,
    tasks: Tasks,
) -> int:
    """Run a job to its end; wait where another process holds it or the record cannot be reached.

    Args:
        database: The record.
        settings: Settings of the installation.
        job_id: The job.
        device: The device of this process.
        leaving: Set when the process has to return its job and exit.
        tasks: The task of each stage.

    Returns:
        The exit code: 0 completed, the error's of a failed job, 130 cancelled, 75 returned to the queue.

    Raises:
        SettingsError: The job requests another device than this one.
        NotFoundError: There is no such job.
    """
    with database.session(Scope.everything) as session:
        job_id = queries.find(session, job_id).id
    logged = ""
    presence = Presence(database, settings, f"run-job-{job_id}@{platform.node()}", device, leaving)
    with drain_on(leaving, job_id), presence as here:
        while not leaving.is_set():
            try:
                with database.transaction(Scope.everything) as session:
                    turn = take_turn(session, job_id, device)
            except UnavailableError as error:
                logger.warning("the record is away (%s); trying again", error)
                leaving.wait(RETRY_S)
                continue
            if turn.exit_code is not None:
                return turn.exit_code
            if turn.stage is not None:
                logged = ""
                _run_stage(tasks[turn.stage], job_id, turn.stage, turn, here.worker_id)
                continue
            if turn.wait != logged:
                logger.info("job %s: %s", job_id, turn.wait)
            logged = turn.wait
            leaving.wait(POLL_S)
    return DRAINED


def take_turn(session: Session, job_id: str, device: Device) -> Turn:
    """Choose the next step for a job; a pending stage that this process runs is marked as sent to it."""
    job = session.get_one(Job, job_id, populate_existing=True)
    if job.status.final:
        return Turn(exit_code=exit_code_of(job))
    if reason := _wait_reason(session, job):
        return Turn(wait=reason)
    _check_device(job, device)
    publication = job.publication
    if job.status is Status.PENDING:
        gpu_type = device.gpu_type if job.stage.on_gpu else None
        sent = transitions.send(session, job.id, job.attempt, job.stage, queue=queues.FOREGROUND, gpu_type=gpu_type)
        if sent is None:
            return Turn(wait="somebody else took it a moment ago")
        publication = sent
    return Turn(stage=job.stage, attempt=job.attempt, publication=publication)


def exit_code_of(job: Job) -> int:
    """Return the exit code of an ended job."""
    if job.status is Status.COMPLETED:
        return 0
    if job.status is Status.CANCELLED:
        return CANCELLED
    return of_code(error_of(job).code).exit_code


def _wait_reason(session: Session, job: Job) -> str:
    """Return the reason why this process waits with the job; empty if it runs the job now."""
    if job.status is Status.RUNNING:
        return f"{job.stage} runs on {job.worker_id}"
    if limited := _limit(session, job):
        return limited
    if job.paused:
        return f"it is paused; `celora resume {job.id}` lets it go on"
    if job.not_before is not None and job.not_before > now(session):
        return f"{job.stage} failed a moment ago and is tried again soon"
    taken = job.queue not in (None, queues.FOREGROUND, queues.ENTRY)
    if job.status is Status.QUEUED and taken and job.queue in _read_queues(session):
        return f"{job.stage} was sent to {job.queue}, which a worker reads"
    return ""


def _limit(session: Session, job: Job) -> str:
    """Return the limit of its tenant that keeps the job from a slot; empty below all limits."""
    if job.limited is not None:
        return job.wait_reason or "a limit of its tenant has no room for it"
    limit = limits_of(session, job.tenant).max_jobs
    if limit is None or job.status is not Status.PENDING:
        return ""
    active = (Job.tenant == job.tenant, Job.status.in_((Status.QUEUED, Status.RUNNING)))
    working = session.scalar(select(func.count()).select_from(Job).where(*active)) or 0
    return explain.max_jobs(limit, working).sentence() if working >= limit else ""


def _read_queues(session: Session) -> set[str]:
    online = session.scalars(select(Worker.queues).where(Worker.status == "online"))
    return {name for names in online for name in names}


def _check_device(job: Job, device: Device) -> None:
    if job.gpu not in ("auto", device.gpu_type):
        raise SettingsError(
            f"job {job.id} asks for a {job.gpu}, and this process has a {device.gpu_type}.",
            hint="Run it where such a device is.",
        )
    need_bytes = max(job.memory_bytes or 0, job.least_memory_bytes or 0)
    if job.stage.on_gpu and need_bytes > device.memory_bytes:
        raise SettingsError(
            f"job {job.id} needs {need_bytes / 2**30:.1f} GiB, and this {device.gpu_type} has "
            f"{device.memory_bytes / 2**30:.1f} GiB.",
            hint="Run it on a larger device.",
        )


def _run_stage(task: Task[Any, Any], job_id: str, stage: Stage, turn: Turn, worker_id: str) -> None:
    """Run one stage as its task does; the record holds the stage's ending."""
    logger.info("job %s: %s of attempt %d begins", job_id, stage, turn.attempt)
    message_id = f"{job_id}.{stage}.{turn.attempt}.{turn.publication}"
    task.push_request(id=message_id, root_id=job_id, hostname=worker_id, chain=None)
    began = time.monotonic()
    try:
        task.run(job_id=job_id, attempt=turn.attempt)
    except Ignore:
        ending = "stopped"
    except UnavailableError as error:
        ending = f"could not begin: {error}"
    except CeloraError as error:
        ending = f"failed: {error}"
    except Exception:
        logger.exception("job %s: %s went wrong in this process itself", job_id, stage)
        ending = "failed"
    else:
        ending = "is done"
    finally:
        task.pop_request()
    logger.info("job %s: %s %s after %.0f s", job_id, stage, ending, time.monotonic() - began)
