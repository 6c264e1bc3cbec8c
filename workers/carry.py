"""Carries one stage of a job: claim, work under a lease, and the ending that follows (``endings``).

The claim is a compare-and-set on (job, attempt, stage), so a duplicate or late message does nothing. What the work
returns becomes the job's by one guarded update; a worker that was fenced meanwhile changes nothing.
"""

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery.exceptions import Ignore
from sqlalchemy.orm import Session

from ..models import transitions
from ..models.database import Database, get_database
from ..models.registry import obstacle
from ..models.spec import JobSpec
from ..models.states import Reason, Stage, Status
from ..models.tables import Job, Worker
from ..settings.failpoints import hit
from ..settings.gpus import gpu_catalogue
from ..settings.settings import Settings, get_settings
from . import announce, endings, log_lines, queues, sending
from .celery import EXPIRES_S, app
from .environment import secrets_for
from .lease import Lease
from .markers import Markers
from .options import pinned_device
from .places import Places
from .progress import Progress
from .supervisor import Cancelled, Drained, Limits, Lost, supervise

logger = logging.getLogger(__name__)

_leaving = threading.Event()


@dataclass(frozen=True, kw_only=True)
class Held:
    """A claimed job, and all that its stage's work needs.

    Attributes:
        job: The row as it was at the claim; changing it changes nothing.
        spec: Its validated spec.
        lease: Held on it.
        places: Where this attempt's files lie.
        settings: Of the installation.
        database: The record.
    """

    job: Job
    spec: JobSpec
    lease: Lease
    places: Places
    settings: Settings
    database: Database

    @property
    def device(self) -> str:
        """Torch's name of the device this worker is pinned to."""
        pinned = pinned_device()
        return "cuda" if pinned and pinned[2] else "cpu"

    @property
    def price_per_hour(self) -> float:
        """What an hour of the job's slot costs, US dollars; nothing off the GPU."""
        types = gpu_catalogue(self.settings.gpus)
        held = types.get(self.job.gpu_type or "") if self.job.stage.on_gpu else None
        return held.price_per_hour if held else 0.0

    def draining(self) -> bool:
        """Whether this worker is leaving."""
        return _leaving.is_set() or self._markers.drain(os.getppid()).exists()

    @property
    def _markers(self) -> Markers:
        return Markers(self.settings.home / "run")

    def note(self, level: str, kind: str, message: str) -> None:
        """Write an event of this job, as long as it is ours."""
        with self.database.transaction() as session:
            if transitions.progress(session, self.job.id, self.job.attempt, self.lease.worker_id, {}):
                transitions.event(session, self.job.id, self.job.attempt, level, kind, message, {})

    def run(self, request: Any) -> dict[str, Any]:
        """Run a trainer request for this job and return its result."""
        progress = Progress(self)
        try:
            return supervise(
                request,
                limits=limits_of(self.job, self.spec, self.settings),
                log=self.places.log(self.job.stage),
                environment=secrets_for(self.settings, self.spec),
                lease=self.lease,
                on_event=progress.take,
                started=progress.answer,
                draining=self.draining,
                cancelling=self._markers.cancel(self.job.id).exists,
                grace_s=self.settings.grace_s,
            )
        finally:
            progress.flush()
            self.places.keep_log(self.job.stage)


def leave() -> None:
    """Give back what this process carries, at its next checkpoint; for one that is no worker's child (``run-job``)."""
    _leaving.set()


Work = Callable[[Held], dict[str, Any]]
"""Does a stage's work and returns the columns that the job gets when the stage is done."""
Keep = Callable[[Session, str, dict[str, Any]], bool]
"""Writes what was measured once more into a completed job."""


def carry(request: Any, stage: Stage, job_id: str, attempt: int, work: Work) -> dict[str, Any]:
    """Carry a stage to its end and return what its message's result is to be.

    Args:
        request: The Celery request of the stage's message.
        stage: Which stage.
        job_id: The job.
        attempt: The attempt that the message was sent for.
        work: What the stage does.

    Raises:
        Ignore: The message was stale, or the job ended or went back in another way; the rest of the chain is cut.
        CeloraError: The job failed.
    """
    sending.heard()
    settings, database, worker_id = get_settings(), get_database(), str(request.hostname)
    job = _claim(stage, job_id, attempt, worker_id)
    if job is None:
        logger.info("job %s: a message for %s of attempt %d is not for us; nothing done", job_id, stage, attempt)
        poke()
        raise _cut(request)
    hit("claim.committed")
    held = Held(
        job=job,
        spec=JobSpec.model_validate(job.spec),
        lease=Lease(database, job_id, attempt, worker_id, lease_s=settings.lease_s, heartbeat_s=settings.heartbeat_s),
        places=Places(settings, job_id, attempt),
        settings=settings,
        database=database,
    )
    with log_lines.about(job=job_id, attempt=attempt, tenant=job.tenant, stage=str(stage)):
        logger.info("job %s: %s begins, attempt %d", job_id, stage, attempt)
        return _to_its_end(held, request, work)


def _to_its_end(held: Held, request: Any, work: Work) -> dict[str, Any]:
    job_id, stage, attempt = held.job.id, held.job.stage, held.job.attempt
    try:
        with held.lease:
            hit("work.begin")
            values = work(held)
            hit("work.end")
            if not endings.advance(held, values):
                raise Lost  # noqa: TRY301  (one place says what follows)
    except Drained as ending:
        endings.release(held, Reason.PREEMPTED, resume_step=ending.step)
        why = "given back" if ending.step is None else f"given back at step {ending.step}"
        raise _cut(request, "task-retried", exception=why, traceback="") from None
    except Cancelled:
        endings.cancelled(held, request)
        raise _cut(request, **announce.REVOKED) from None
    except Lost:
        logger.warning("job %s: attempt %d belongs to another worker now; left alone", job_id, attempt)
        raise _cut(request) from None
    except Exception as error:
        endings.failed(held, error)
        request.chain = None
        raise
    finally:
        _after(held)
    return {"job": job_id, "stage": str(stage), "attempt": attempt}


def carry_again(request: Any, job_id: str, work: Work, keep: Keep = transitions.evaluated_again) -> dict[str, Any]:
    """Do a stage's work once more for a completed job; only what it measured changes, and only while it is completed.

    Args:
        request: The Celery request of the message.
        job_id: The job.
        work: What is measured.
        keep: Writes it into the record.

    Raises:
        Ignore: The job is not completed (any more).
        CeloraError: The work failed; the job stays as it was.
    """
    settings, database = get_settings(), get_database()
    with database.session() as session:
        job = session.get(Job, job_id)
        if job is None or job.status is not Status.COMPLETED:
            raise _cut(request)
        session.expunge(job)
    job.stage = Stage.EVALUATE
    held = Held(
        job=job,
        spec=JobSpec.model_validate(job.spec),
        lease=Lease(
            database, job_id, job.attempt, str(request.hostname), lease_s=settings.lease_s, heartbeat_s=settings.lease_s
        ),
        places=Places(settings, job_id, job.attempt),
        settings=settings,
        database=database,
    )
    with log_lines.about(job=job_id, attempt=job.attempt, tenant=job.tenant, stage=str(job.stage)):
        values = work(held)
    with database.transaction() as session:
        keep(session, job_id, values)
    return {"job": job_id, "stage": str(Stage.EVALUATE), "attempt": job.attempt}


def limits_of(job: Job, spec: JobSpec, settings: Settings) -> Limits:
    """How long this run may take: what is left of the job's training time, or the stage's own limit."""
    limits: list[tuple[float, str]] = []
    if spec.stage_time_limit_minutes is not None:
        minutes = spec.stage_time_limit_minutes
        limits.append((minutes * 60, f"the {minutes:g} min that a stage may take (stage_time_limit_minutes)"))
    if spec.time_limit_minutes is not None and job.stage is Stage.TRAIN:
        left_s = max(0.0, spec.time_limit_minutes * 60 - job.train_s)
        limits.append((left_s, f"its {spec.time_limit_minutes:g} min of training (time_limit_minutes)"))
    runs_s, words = min(limits, default=(None, ""))
    return Limits(runs_s=runs_s, words=words, stall_s=settings.stall_minutes * 60, log_bytes=settings.job_log_bytes)


def poke() -> None:
    """Ask for a scheduling round now; the timer brings one anyway where the broker cannot be reached."""

    def send() -> None:
        app.send_task("celora.tick", queue=queues.ENTRY, expires=EXPIRES_S, retry=False, ignore_result=True)

    sending.attempt(send, "a scheduling round")


def _claim(stage: Stage, job_id: str, attempt: int, worker_id: str) -> Job | None:
    pinned = pinned_device() if stage.on_gpu else None
    with get_database().transaction() as session:
        if why := _obstacle(session, stage, worker_id):
            transitions.hand_back(session, job_id, attempt, stage, f"{worker_id} is {why}")
            return None
        job = transitions.claim(
            session,
            job_id,
            attempt,
            stage,
            worker_id=worker_id,
            lease_s=get_settings().lease_s,
            gpu_type=pinned[0] if pinned else None,
        )
        if job is not None:
            session.flush()
            session.refresh(job)
            session.expunge(job)
            hit("claim.taken")
        return job


def _obstacle(session: Session, stage: Stage, worker_id: str) -> str:
    """Why this worker takes no job on now; one that the record does not know takes what comes."""
    row = session.get(Worker, worker_id) if stage.on_gpu else None
    return obstacle(row, get_settings().foreign_memory_bytes) if row is not None else ""


def _after(held: Held) -> None:
    Markers.clear(Markers(held.settings.home / "run").cancel(held.job.id))
    poke()


def _cut(request: Any, kind: str = "task-revoked", **fields: Any) -> Ignore:
    request.chain = None
    announce.cut_short(request, kind, **fields)
    return Ignore()
