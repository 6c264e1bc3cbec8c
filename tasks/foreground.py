"""One job carried in the foreground of this process, from where it stands to its end: ``celora run-job``.

Unusual: no message is sent for it. The job is sent and claimed in the record like any other, under the same lease and
by the same code (``workers.carry``), so a worker that wants it too gets nothing, and a reaper takes it back if this
process is lost. For clusters that queue their own jobs, and give each a process and a GPU of its own.
"""

import logging
import os
import platform
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from celery.exceptions import Ignore
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ..models import history, transitions
from ..models.database import Database, now
from ..models.states import Stage, Status
from ..models.tables import Job, Worker
from ..settings.errors import CeloraError, SettingsError, UnavailableError, of_code
from ..settings.settings import Settings
from ..workers import queues
from ..workers.carry import leave
from ..workers.gpu import Device
from .evaluate import evaluate
from .prepare import prepare
from .publish import publish
from .train import train

logger = logging.getLogger(__name__)

DRAINED = 75
"""Exit code (EX_TEMPFAIL): the job was given back and goes on with the next process."""

CANCELLED = 130
"""Exit code: a person ended the job."""

POLL_S = 1.0
RETRY_S = 5.0
_TASKS: dict[Stage, Any] = {
    Stage.PREPARE: prepare,
    Stage.TRAIN: train,
    Stage.EVALUATE: evaluate,
    Stage.PUBLISH: publish,
}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What is to be done with a job now: carry a stage of it, wait, or leave, since it has ended."""

    stage: Stage | None = None
    attempt: int = 0
    publication: int = 0
    wait: str = ""
    exit_code: int | None = None


def run(database: Database, settings: Settings, job_id: str, device: Device, leaving: threading.Event) -> int:
    """Carry a job to its end, waiting where somebody else holds it or the record is away.

    Args:
        database: The record.
        settings: Of the installation.
        job_id: The job.
        device: What this process is pinned to.
        leaving: Set when it is to leave; whoever sets it calls ``workers.carry.leave`` as well.

    Returns:
        The exit code: 0 completed, the error's of a failed job, 130 cancelled, 75 given back.

    Raises:
        SettingsError: The job asks for another device than this one.
        NotFoundError: There is no such job.
    """
    with database.session() as session:
        job_id = history.find(session, job_id).id
    told = ""
    with Presence(database, settings, f"run-job-{job_id}@{platform.node()}", device, leaving) as here:
        while not leaving.is_set():
            try:
                with database.transaction() as session:
                    turn = take_turn(session, job_id, device)
            except UnavailableError as error:
                logger.warning("the record is away (%s); trying again", error)
                leaving.wait(RETRY_S)
                continue
            if turn.exit_code is not None:
                return turn.exit_code
            if turn.stage is not None:
                told = ""
                _carry(job_id, turn, here.worker_id)
            else:
                if turn.wait != told:
                    logger.info("job %s: %s", job_id, turn.wait)
                told = turn.wait
                leaving.wait(POLL_S)
    return DRAINED


def take_turn(session: Session, job_id: str, device: Device) -> Turn:
    """Say what is to be done with a job now; a pending stage that is to be carried is marked as sent to us."""
    job = session.get_one(Job, job_id, populate_existing=True)
    if job.status.final:
        return Turn(exit_code=exit_code_of(job))
    if why := _busy(session, job):
        return Turn(wait=why)
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
    """The exit code that says how a job ended."""
    if job.status is Status.COMPLETED:
        return 0
    if job.status is Status.CANCELLED:
        return CANCELLED
    return of_code(str((job.error or {}).get("code"))).exit_code


def _busy(session: Session, job: Job) -> str:
    """Why nothing is to be done with the job just now; empty if something is."""
    if job.status is Status.RUNNING:
        return f"{job.stage} runs on {job.worker_id}"
    if job.paused:
        return f"it is paused; `celora resume {job.id}` lets it go on"
    if job.not_before is not None and job.not_before > now(session):
        return f"{job.stage} failed a moment ago and is tried again soon"
    taken = job.queue not in (None, queues.FOREGROUND, queues.ENTRY)
    if job.status is Status.QUEUED and taken and job.queue in _read_queues(session):
        return f"{job.stage} was sent to {job.queue}, which a worker reads"
    return ""


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


def _carry(job_id: str, turn: Turn, worker_id: str) -> None:
    """Carry one stage as its task does; how it ended stands in the record."""
    assert turn.stage is not None  # noqa: S101  (the caller looked)
    logger.info("job %s: %s of attempt %d begins", job_id, turn.stage, turn.attempt)
    task = _TASKS[turn.stage]
    task.push_request(
        id=f"{job_id}.{turn.stage}.{turn.attempt}.{turn.publication}", root_id=job_id, hostname=worker_id, chain=None
    )
    began = time.monotonic()
    try:
        task.run(job_id=job_id, attempt=turn.attempt)
    except Ignore:
        how = "stopped"
    except UnavailableError as error:
        how = f"could not begin: {error}"
    except CeloraError as error:
        how = f"failed: {error}"
    except Exception:
        logger.exception("job %s: %s went wrong in this process itself", job_id, turn.stage)
        how = "failed"
    else:
        how = "is done"
    finally:
        task.pop_request()
    logger.info("job %s: %s %s after %.0f s", job_id, turn.stage, how, time.monotonic() - began)


class Presence:
    """This process as the record sees it: a worker of kind ``job``, which no scheduling round gives work to.

    Args:
        database: The record.
        settings: Of the installation.
        worker_id: Its name.
        device: What it is pinned to.
        leaving: Set here when somebody asks the worker to drain.
    """

    def __init__(
        self, database: Database, settings: Settings, worker_id: str, device: Device, leaving: threading.Event
    ) -> None:
        self.worker_id = worker_id[:255]
        self._database, self._settings, self._device, self._leaving = database, settings, device, leaving
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._be_seen, name="presence", daemon=True)

    def __enter__(self) -> Self:
        self._register()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=RETRY_S)
        try:
            with self._database.transaction() as session:
                transitions.gone(session, self.worker_id)
        except (SQLAlchemyError, UnavailableError) as away:
            logger.warning("the record could not be told that this process leaves (%s)", away)

    def _register(self) -> None:
        with self._database.transaction() as session:
            transitions.register(
                session,
                self.worker_id,
                host=platform.node(),
                kind="job",
                gpu_type=self._device.gpu_type,
                device_index=self._device.index,
                device_uuid=self._device.uuid,
                memory_bytes=self._device.memory_bytes,
                slots=1,
                pid=os.getpid(),
                versions={"python": platform.python_version()},
                queues=[],
            )

    def _be_seen(self) -> None:
        while not self._stop.wait(self._settings.heartbeat_s):
            try:
                with self._database.transaction() as session:
                    row = transitions.seen(session, self.worker_id)
                if row is None:
                    self._register()
                elif row.drain_asked:
                    logger.warning("somebody asked this process to drain")
                    self._leaving.set()
                    leave()
            except (SQLAlchemyError, UnavailableError) as away:
                logger.warning("the record cannot be reached (%s); trying again", away)
