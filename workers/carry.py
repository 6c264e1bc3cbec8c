"""Carries one stage of a job: claim, work under a lease, hand on; and every other way it can end.

The claim is a compare-and-set on (job, attempt, stage), so a duplicate or late message does nothing. What the work
returns becomes the job's by one guarded update; a worker that was fenced meanwhile changes nothing.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery.exceptions import Ignore
from sqlalchemy.orm import Session

from ..models import transitions
from ..models.database import Database, get_database
from ..models.spec import JobSpec
from ..models.states import Reason, Stage, Status
from ..models.tables import Job
from ..scheduling.retry import rule_of, tried_enough
from ..settings.errors import CeloraError, UnavailableError
from ..settings.failpoints import hit
from ..settings.gpus import gpu_catalogue
from ..settings.secrets import Secrets
from ..settings.settings import Settings, get_settings
from . import announce, queues
from .celery import app
from .lease import Lease
from .markers import Markers
from .options import pinned_device
from .places import Places
from .progress import Progress
from .supervisor import Cancelled, Drained, Lost, TrainerError, supervise

logger = logging.getLogger(__name__)

SETTLE_S = 3.0


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
        return self._markers.drain(os.getppid()).exists()

    @property
    def _markers(self) -> Markers:
        return Markers(self.settings.home / "run")

    def note(self, level: str, kind: str, message: str) -> None:
        """Write an event of this job."""
        with self.database.transaction() as session:
            transitions.event(session, self.job.id, self.job.attempt, level, kind, message, {})

    def run(self, request: Any) -> dict[str, Any]:
        """Run a trainer request for this job and return its result."""
        progress = Progress(self)
        try:
            return supervise(
                request,
                log=self.places.log(self.job.stage),
                environment=secrets_for(self.settings, self.spec),
                lease=self.lease,
                on_event=progress.take,
                draining=self.draining,
                cancelling=self._markers.cancel(self.job.id).exists,
                grace_s=self.settings.grace_s,
            )
        finally:
            progress.flush()
            self.places.keep_log(self.job.stage)


Work = Callable[[Held], dict[str, Any]]
"""Does a stage's work and returns the columns that the job gets when the stage is done."""


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
    settings, database, worker_id = get_settings(), get_database(), str(request.hostname)
    job = _claim(stage, job_id, attempt, worker_id)
    if job is None:
        logger.info("job %s: a message for %s of attempt %d is stale; nothing done", job_id, stage, attempt)
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
    try:
        with held.lease:
            hit("work.begin")
            values = work(held)
            hit("work.end")
            if not _advance(held, stage, worker_id, values):
                raise Lost  # noqa: TRY301  (one place says what follows)
    except Drained as ending:
        _release(held, worker_id, Reason.PREEMPTED, resume_step=ending.step)
        raise _cut(request) from None
    except Cancelled:
        _cancelled(held, worker_id, request)
        raise _cut(request) from None
    except Lost:
        logger.warning("job %s: attempt %d belongs to another worker now; left alone", job_id, attempt)
        raise _cut(request) from None
    except Exception as error:
        _failed(held, stage, worker_id, error)
        request.chain = None
        raise
    finally:
        _after(held)
    return {"job": job_id, "stage": str(stage), "attempt": attempt}


def carry_again(request: Any, job_id: str, work: Work) -> dict[str, Any]:
    """Do a stage's work once more for a completed job; only what it measured changes, and only while it is completed.

    Raises:
        Ignore: The job is not completed (any more).
        CeloraError: The work failed; the job stays as it was.
    """
    settings, database = get_settings(), get_database()
    with database.session() as session:
        job = session.get(Job, job_id)
        if job is None or job.status is not Status.COMPLETED:
            raise Ignore
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
    values = work(held)
    with database.transaction() as session:
        transitions.evaluated_again(session, job_id, values)
    return {"job": job_id, "stage": str(Stage.EVALUATE), "attempt": job.attempt}


def secrets_for(settings: Settings, spec: JobSpec) -> dict[str, str]:
    """The environment variables that a trainer of this job gets: only the secrets that it can need."""
    names = ["HF_TOKEN", *(["WANDB_API_KEY"] if "wandb" in spec.report_to else [])]
    stored = Secrets(settings.home)
    found = {name: stored.get(name) or os.environ.get(name, "") for name in names}
    return {name: value for name, value in found.items() if value}


def poke() -> None:
    """Ask for a scheduling round now; the timer brings one anyway where the broker cannot be reached."""
    try:
        app.send_task("celora.tick", queue=queues.ENTRY, expires=60, retry=False, ignore_result=True)
    except announce.UNREACHABLE as error:
        logger.info("no scheduling round could be asked for (%s); the timer will", error)


def _claim(stage: Stage, job_id: str, attempt: int, worker_id: str) -> Job | None:
    pinned = pinned_device() if stage.on_gpu else None
    with get_database().transaction() as session:
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


def _settle(held: Held, change: Callable[[Session], bool]) -> bool:
    """Write down how a stage ended, waiting for the record where it is away.

    What was done stays valid for as long as nobody else claims the job, so the wait has no limit of its own; a worker
    that has to leave gives up, and the reaper takes over.
    """
    while True:
        try:
            with held.database.transaction() as session:
                changed = change(session)
                hit("ending.written")
            hit("ending.committed")
        except UnavailableError as error:
            if held.draining():
                raise Lost from error
            logger.warning("job %s: the record is away (%s); its end is told when it is back", held.job.id, error)
            time.sleep(SETTLE_S)
        else:
            return changed


def _advance(held: Held, stage: Stage, worker_id: str, values: dict[str, Any]) -> bool:
    def change(session: Session) -> bool:
        return transitions.advance(
            session,
            held.job.id,
            held.job.attempt,
            stage,
            worker_id=worker_id,
            values=values,
            price_per_hour=held.price_per_hour,
        )

    return _settle(held, change)


def _release(held: Held, worker_id: str, reason: Reason, **facts: Any) -> None:
    def change(session: Session) -> bool:
        return transitions.release(
            session,
            held.job.id,
            held.job.attempt,
            worker_id=worker_id,
            reason=reason,
            price_per_hour=held.price_per_hour,
            **facts,
        )

    _settle(held, change)


def _cancelled(held: Held, worker_id: str, request: Any) -> None:
    def change(session: Session) -> bool:
        return transitions.cancelled(
            session, held.job.id, held.job.attempt, worker_id, price_per_hour=held.price_per_hour
        )

    if not _settle(held, change):
        return
    announce.announce(held.database, held.job.id)
    try:
        app.backend.mark_as_revoked(request.id, "cancelled", request=None)
    except announce.UNREACHABLE as error:
        logger.info("job %s: Flower cannot be shown the end of its stage (%s)", held.job.id, error)


def _failed(held: Held, stage: Stage, worker_id: str, error: Exception) -> None:
    facts = _facts(error, stage)
    rule = rule_of(facts["code"])
    facts["hint"] = facts["hint"] or rule.advice
    again = rule.again and not tried_enough(held.job.stale_attempts, held.settings.max_attempts)
    if again:
        _release(held, worker_id, Reason.RETRYING, error=facts)
        return

    def change(session: Session) -> bool:
        return transitions.fail(
            session,
            held.job.id,
            held.job.attempt,
            worker_id=worker_id,
            error=facts,
            price_per_hour=held.price_per_hour,
        )

    if _settle(held, change):
        announce.announce(held.database, held.job.id)


def _facts(error: Exception, stage: Stage) -> dict[str, Any]:
    if isinstance(error, TrainerError):
        return {"code": "internal", "message": "", "hint": "", **error.error, "stage": str(stage)}
    if isinstance(error, CeloraError):
        return {"code": error.code, "message": error.message, "hint": error.hint, "stage": str(stage), "log_tail": ""}
    logger.error("stage %s failed in the worker itself", stage, exc_info=error)
    message = f"{type(error).__name__}: {error}".splitlines()[0]
    return {"code": "internal", "message": message, "hint": "", "stage": str(stage), "log_tail": ""}


def _after(held: Held) -> None:
    Markers.clear(Markers(held.settings.home / "run").cancel(held.job.id))
    poke()


def _cut(request: Any) -> Ignore:
    request.chain = None
    return Ignore()
