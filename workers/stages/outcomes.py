"""Writes the ending of a claimed stage into the record, once its trainer is gone, and announces the end of the job.

Each ending waits for an unreachable record. The results stay valid until another worker claims the job, so the wait has
no limit of its own. A worker that must shut down gives up, and the reaper takes over. The end of a job is announced to
its caller right after the commit; where the broker is unreachable, the next tick announces it.
"""

import logging
import time
from collections.abc import Callable

from sqlalchemy.orm import Session

from ...errors import CeloraError, UnavailableError
from ...models.columns import faults_of
from ...models.jobs import failures, transitions
from ...models.jobs.lifecycle import progressed
from ...models.jobs.progress import Columns, StageValues
from ...models.jobs.stage_results import limits_of
from ...models.rows import lock_if, owned
from ...models.scope.scope import Scope
from ...models.states import Reason
from ...models.tables import Job
from ...models.tables.types import JsonObject
from ...models.workers import record_resident
from ...scheduling.retry import Failed, rule_of, ruling
from ...settings.failpoints import hit
from ...storage.disk_space import disk_full, is_no_space
from .. import messages, results
from ..celery import app
from ..trainer.supervisor import Lost, TrainerError
from .claimed import ClaimedStage, is_draining
from .resident import resident_of

logger = logging.getLogger(__name__)

SETTLE_S = 3.0


def finish(stage: ClaimedStage, values: Columns | StageValues, *, following_queue: str | None = None) -> None:
    """Record the results of a stage that succeeded, and advance its job; after the last stage announce the job's end.

    The base that the worker's trainer host holds is recorded in the same transaction, for the round that follows.

    Args:
        stage: The claimed stage.
        values: Its results.
        following_queue: The queue of the next stage's message; None for that of this stage.

    Raises:
        Lost: Another worker owns the attempt.
    """
    hit("work.end")
    resident = resident_of(stage.settings) if stage.hosts_trainers else None

    def change(session: Session) -> bool:
        if stage.hosts_trainers:
            record_resident(session, stage.claim.worker_id, resident)
        return transitions.advance(session, stage.claim, stage.stage, values, following_queue=following_queue)

    if not _settle(stage, change):
        raise Lost
    if stage.stage.following is None:
        results.announce(stage.database, stage.claim.job_id)


def give_back(stage: ClaimedStage, reason: Reason, *, resume_step: int | None) -> None:
    """Return the job to pending, its checkpoint committed; the attempt does not count."""
    _settle(stage, lambda session: transitions.release(session, stage.claim, reason, resume_step=resume_step))


def cancel(stage: ClaimedStage, task_id: str) -> None:
    """Set a job whose process has ended to cancelled, and announce that to its caller and to Flower."""
    if not _settle(stage, lambda session: transitions.finish_cancel(session, stage.claim)):
        return
    results.announce(stage.database, stage.claim.job_id)
    messages.attempt(lambda: app.backend.mark_as_revoked(task_id, "cancelled", request=None), f"the end of {task_id}")


def fail(stage: ClaimedStage, error: Exception) -> None:
    """Record a failed attempt; by the table of failures the job is retried, smaller or elsewhere, or it ends."""
    facts = facts_of(stage, error)
    facts["hint"] = facts["hint"] or rule_of(facts["code"]).advice
    ended: list[bool] = []

    def change(session: Session) -> bool:
        job = lock_if(session, stage.claim.job_id, *owned(stage.claim))
        if job is None:
            return False
        settings = stage.settings
        decision = ruling(
            _as_failed(session, job, facts), max_attempts=settings.max_attempts, wait_s=settings.retry_wait_s
        )
        ended[:] = [not decision.again]
        return failures.settle(session, job, stage.claim, facts, decision)

    if _settle(stage, change) and ended[0]:
        results.announce(stage.database, stage.claim.job_id)


def facts_of(stage: ClaimedStage, error: Exception) -> JsonObject:
    """Return a failed attempt's error as the record keeps it: code, message, hint, stage, log_tail, facts."""
    about: JsonObject = {"stage": stage.stage.value, "log_tail": ""}
    if isinstance(error, TrainerError):
        return {"code": "internal", "message": "", "hint": "", **about, **error.error}
    if isinstance(error, CeloraError):
        return {"code": error.code, "message": error.message, "hint": error.hint, "facts": error.facts, **about}
    if is_no_space(error):
        full = disk_full(stage.workspace.scratch, error=error)
        return {"code": full.code, "message": full.message, "hint": full.hint, "facts": full.facts, **about}
    logger.error("stage %s failed in the worker itself", stage.stage, exc_info=error)
    message = f"{type(error).__name__}: {error}".splitlines()[0]
    return {"code": "internal", "message": message, "hint": "", **about}


def _as_failed(session: Session, job: Job, error: JsonObject) -> Failed:
    """Collect the facts of a failed attempt on which its ruling depends."""
    ran_with: JsonObject = error.get("facts") or {}
    limits = limits_of(job).model_dump(exclude_none=True, exclude_unset=True)
    memory_bytes, largest_bytes = failures.memory_of(session, str(job.worker_id))
    recipe: JsonObject = {**(job.resolved or {}), **limits, **ran_with}
    return Failed(
        stage=job.stage,
        error=error,
        stale_attempts=job.stale_attempts,
        progressed=progressed(session, job),
        faults=faults_of(job),
        recipe=recipe,
        gpu=job.gpu,
        memory_bytes=memory_bytes,
        largest_bytes=largest_bytes,
    )


def _settle(stage: ClaimedStage, change: Callable[[Session], bool]) -> bool:
    """Commit a change, waiting for an unreachable record; return False if the change's guard did not hold."""
    while True:
        try:
            with stage.database.transaction(Scope.everything) as session:
                changed = change(session)
                hit("ending.written")
        except UnavailableError as error:
            if is_draining(stage):
                raise Lost from error
            job_id = stage.claim.job_id
            logger.warning("job %s: the record is away (%s); its end is told when it is back", job_id, error)
            time.sleep(SETTLE_S)
        else:
            hit("ending.committed")
            return changed
