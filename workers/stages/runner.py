"""Runs a claimed stage: the claim, the lease, the trainer process, and the one ending that follows (``outcomes``).

    with claimed(request, Stage.TRAIN, job_id, attempt) as stage:
        finish(stage, train_adapter(stage))

The claim is a compare-and-set on (job, attempt, stage), so a duplicate or late message has no effect. The results of
the block become the job's by one guarded update (``finish``); a worker that was fenced meanwhile changes nothing. Every
other end of the block is an exception, and each kind of exception has its ending.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

from celery.app.task import Context
from celery.exceptions import Ignore
from pydantic import BaseModel

from ...models.database import get_database, now
from ...models.jobs import transitions
from ...models.jobs.lifecycle import charge_again
from ...models.rows import Claim, lock_if
from ...models.scope.scope import Scope
from ...models.spec import JobSpec, stored_spec
from ...models.states import Reason, Stage, Status
from ...models.tables import Job, Worker
from ...models.workers import obstacle
from ...settings.failpoints import hit
from ...settings.gpus import gpu_catalogue
from ...settings.settings import Settings, get_settings
from .. import logging as log_lines
from .. import messages, results
from ..gpu_option import pinned_device
from ..lease import Lease
from ..queues import queue_of
from ..signal_files import Markers
from ..trainer.environment import secrets_for
from ..trainer.supervisor import Cancelled, Drained, Limits, Lost, Result, supervise
from . import outcomes
from .claimed import ClaimedStage, is_draining
from .progress import Progress
from .resident import plan_of
from .workspace import Workspace

logger = logging.getLogger(__name__)


@contextmanager
def claimed(request: Context, stage: Stage, job_id: str, attempt: int) -> Generator[ClaimedStage]:
    """Claim a stage, renew its lease during the block, and record the ending that fits the block's exception.

    Args:
        request: The Celery request of the stage's message.
        stage: The stage.
        job_id: The job.
        attempt: The attempt that the message was sent for.

    Raises:
        Ignore: The message was stale, or the job ended otherwise or was returned; the rest of the chain is dropped.
        CeloraError: The job failed.
    """
    messages.note_broker_up()
    held = _claim(str(request.hostname), stage, job_id, attempt)
    if held is None:
        logger.info("job %s: a message for %s of attempt %d is not for us; nothing done", job_id, stage, attempt)
        messages.request_tick()
        raise _cut(request)
    hit("claim.committed")
    with log_lines.about(job=job_id, attempt=attempt, tenant=held.job.tenant, stage=str(stage)):
        logger.info("job %s: %s begins, attempt %d", job_id, stage, attempt)
        try:
            with held.lease:
                hit("work.begin")
                yield held
        except Drained as ending:
            outcomes.give_back(held, Reason.PREEMPTED, resume_step=ending.step)
            why = "given back" if ending.step is None else f"given back at step {ending.step}"
            raise _cut(request, "task-retried", exception=why, traceback="") from None
        except Cancelled:
            outcomes.cancel(held, str(request.id))
            raise _cut(request, **results.REVOKED) from None
        except Lost:
            logger.warning("job %s: attempt %d belongs to another worker now; left alone", job_id, attempt)
            raise _cut(request) from None
        except Exception as error:
            outcomes.fail(held, error)
            request.chain = None
            raise
        finally:
            Markers.clear(Markers(held.settings.home / "run").cancel(job_id))
            messages.request_tick()


@contextmanager
def reopened(request: Context, job_id: str) -> Generator[ClaimedStage]:
    """Open the evaluation of a completed job once more, without a lease, since the job's status stays.

    Its time is charged however it ends; that of a worker that dies meanwhile is not, since nothing knows its end.

    Raises:
        Ignore: The job is not completed (any more), or the message is forged: this worker evaluates no such job.
    """
    settings, database = get_settings(), get_database()
    with database.session(Scope.everything) as session:
        job, worker = session.get(Job, job_id), session.get(Worker, str(request.hostname))
        if job is None or job.status is not Status.COMPLETED:
            raise _cut(request)
        if worker is not None and queue_of(Stage.EVALUATE, job.gpu_type) not in worker.queues:
            logger.warning("job %s: a message for its evaluation came to another queue; nothing done", job_id)
            raise _cut(request)
        began = now(session)
        session.expunge(job)
    held = _stage(settings, job, Stage.EVALUATE, str(request.hostname))
    with log_lines.about(job=job_id, attempt=job.attempt, tenant=job.tenant, stage=str(held.stage)):
        try:
            yield held
        finally:
            with database.transaction(Scope.everything) as session:
                ended = lock_if(session, job_id, Job.status == Status.COMPLETED)
                if ended is not None:
                    charge_again(session, ended, began, held.claim.price_per_hour)


def run_trainer(stage: ClaimedStage, request: BaseModel, answer: type[Result]) -> Result:
    """Run a trainer request for a stage under its lease, record its events, and return its result.

    Args:
        stage: The claimed stage.
        request: One of the requests of ``tuning.protocol``.
        answer: The model of its result.

    Raises:
        Drained, Cancelled, Lost, TrainerError: As ``supervise``.
    """
    progress = Progress(stage)
    try:
        return supervise(
            request,
            answer,
            limits=replace(
                limits_of(stage.job, stage.stage, stage.spec, stage.settings),
                warm_s=_warm_s(stage),
                host=plan_of(stage),
            ),
            log=stage.workspace.log(stage.stage),
            environment=secrets_for(stage.settings, stage.spec),
            lease=stage.lease,
            on_event=progress.take,
            started=progress.answer,
            draining=lambda: is_draining(stage),
            cancelling=Markers(stage.settings.home / "run").cancel(stage.claim.job_id).exists,
            grace_s=stage.settings.grace_s,
        )
    finally:
        progress.flush()
        stage.workspace.keep_log(stage.stage)


def limits_of(job: Job, stage: Stage, spec: JobSpec, settings: Settings) -> Limits:
    """Compute the time that this run may take: the rest of the job's training time, or the stage's own limit."""
    limits: list[tuple[float, str]] = []
    if spec.stage_time_limit_minutes is not None:
        minutes = spec.stage_time_limit_minutes
        limits.append((minutes * 60, f"the {minutes:g} min that a stage may take (stage_time_limit_minutes)"))
    if spec.time_limit_minutes is not None and stage is Stage.TRAIN:
        left_s = max(0.0, spec.time_limit_minutes * 60 - job.train_s)
        limits.append((left_s, f"its {spec.time_limit_minutes:g} min of training (time_limit_minutes)"))
    runs_s, words = min(limits, default=(None, ""))
    return Limits(runs_s=runs_s, words=words, stall_s=settings.stall_minutes * 60, log_bytes=settings.job_log_bytes)


def _warm_s(stage: ClaimedStage) -> float:
    """Return the seconds that a fork server may wait for the next trainer; 0 for a trainer in a new process.

    A CUDA context does not survive a fork. A tracker's libraries would stay in the process of the next job.
    """
    forks = stage.stage.on_gpu and stage.device == "cpu" and not stage.spec.report_to
    return stage.settings.warm_s if forks else 0.0


def _claim(worker_id: str, stage: Stage, job_id: str, attempt: int) -> ClaimedStage | None:
    """Claim the stage; None if the message is stale or forged, or this worker may take no such work now."""
    settings = get_settings()
    pinned = pinned_device() if stage.on_gpu else None
    with get_database().transaction(Scope.everything) as session:
        worker = session.get(Worker, worker_id)  # a worker without a row in the record takes every job
        if worker is not None and (why := _obstacle(worker, settings, stage)):
            why = f"{worker_id} is {why}"
            transitions.hand_back(session, job_id, attempt, stage, why, queues=worker.queues)
            return None
        job = transitions.claim(
            session,
            job_id,
            attempt,
            stage,
            worker_id=worker_id,
            lease_s=settings.lease_s,
            gpu_type=pinned[0] if pinned else None,
            queues=worker.queues if worker is not None else (),
        )
        if job is None:
            return None
        session.flush()
        session.refresh(job)
        session.expunge(job)
        hit("claim.taken")
    return _stage(settings, job, stage, worker_id)


def _stage(settings: Settings, job: Job, stage: Stage, worker_id: str) -> ClaimedStage:
    gpu = gpu_catalogue(settings.gpus).get(job.gpu_type or "") if stage.on_gpu else None
    claim = Claim(job.id, job.attempt, worker_id, gpu.price_per_hour if gpu else 0.0)
    database = get_database()
    return ClaimedStage(
        job=job,
        stage=stage,
        spec=stored_spec(job.spec),
        claim=claim,
        lease=Lease(database, claim, lease_s=settings.lease_s, heartbeat_s=settings.heartbeat_s),
        workspace=Workspace(settings, job.id, job.attempt),
        settings=settings,
        database=database,
    )


def _obstacle(worker: Worker, settings: Settings, stage: Stage) -> str:
    """Return the reason why this worker takes no job of this stage now; empty if it takes one."""
    return obstacle(worker, settings.foreign_memory_bytes) if stage.on_gpu else ""


def _cut(request: Context, kind: str = "task-revoked", **fields: object) -> Ignore:
    request.chain = None
    results.cut_short(request, kind, **fields)
    return Ignore()
