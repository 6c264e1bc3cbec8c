"""Every way in which a worker's hold on a job ends, written down once the trainer is gone.

Each waits for the record where it is away: what was done stays valid for as long as nobody else claims the job, so the
wait has no limit of its own. A worker that has to leave gives up, and the reaper takes over.
"""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from ..models import failures, transitions
from ..models.attempts import progressed
from ..models.states import Reason
from ..models.tables import Job
from ..scheduling.retry import Failed, rule_of, ruling
from ..settings.errors import CeloraError, UnavailableError
from ..settings.failpoints import hit
from . import announce, sending
from .celery import app
from .supervisor import Lost, TrainerError

if TYPE_CHECKING:
    from .carry import Held

logger = logging.getLogger(__name__)

SETTLE_S = 3.0


def advance(held: "Held", values: dict[str, Any]) -> bool:
    """The stage succeeded: its results become the job's, which moves on. False: the attempt is another's."""

    def change(session: Session) -> bool:
        return transitions.advance(
            session,
            held.job.id,
            held.job.attempt,
            held.job.stage,
            worker_id=held.lease.worker_id,
            values=values,
            price_per_hour=held.price_per_hour,
        )

    return _settle(held, change)


def release(held: "Held", reason: Reason, *, resume_step: int | None) -> None:
    """The job goes back, its checkpoint committed; no attempt is paid."""

    def change(session: Session) -> bool:
        return transitions.release(
            session,
            held.job.id,
            held.job.attempt,
            worker_id=held.lease.worker_id,
            reason=reason,
            resume_step=resume_step,
            price_per_hour=held.price_per_hour,
        )

    _settle(held, change)


def cancelled(held: "Held", request: Any) -> None:
    """The job was cancelled and nothing of it runs any more; its caller and Flower are told."""

    def change(session: Session) -> bool:
        return transitions.cancelled(
            session, held.job.id, held.job.attempt, held.lease.worker_id, price_per_hour=held.price_per_hour
        )

    if not _settle(held, change):
        return
    announce.announce(held.database, held.job.id)
    sending.attempt(
        lambda: app.backend.mark_as_revoked(request.id, "cancelled", request=None), f"the end of {request.id}"
    )


def failed(held: "Held", error: Exception) -> None:
    """The stage failed: by the table of failures it is tried again, smaller or elsewhere, or the job ends."""
    facts = _facts(held, error)
    facts["hint"] = facts["hint"] or rule_of(facts["code"]).advice
    ended: list[bool] = []

    def change(session: Session) -> bool:
        job = transitions.held(session, held.job.id, held.job.attempt, held.lease.worker_id)
        if job is None:
            return False
        ruled = ruling(
            _as_failed(session, job, facts),
            max_attempts=held.settings.max_attempts,
            wait_s=held.settings.retry_wait_s,
        )
        ended[:] = [not ruled.again]
        return failures.settle(session, job, facts, ruled, price_per_hour=held.price_per_hour)

    if _settle(held, change) and ended[0]:
        announce.announce(held.database, held.job.id)


def _as_failed(session: Session, job: Job, facts: dict[str, Any]) -> Failed:
    ran_with: dict[str, Any] = facts.get("facts") or {}
    limits = {name: value for name, value in (job.adjusted or {}).items() if value is not None}
    memory_bytes, largest_bytes = failures.memory_of(session, str(job.worker_id))
    return Failed(
        stage=job.stage,
        error=facts,
        stale_attempts=job.stale_attempts,
        progressed=progressed(session, job),
        faults=job.faults or {},
        recipe={**(job.resolved or {}), **limits, **ran_with},
        gpu=job.gpu,
        memory_bytes=memory_bytes,
        largest_bytes=largest_bytes,
    )


def _facts(held: "Held", error: Exception) -> dict[str, Any]:
    about = {"stage": held.job.stage.value, "log_tail": ""}
    if isinstance(error, TrainerError):
        return {"code": "internal", "message": "", "hint": "", **about, **error.error}
    if isinstance(error, CeloraError):
        return {"code": error.code, "message": error.message, "hint": error.hint, "facts": error.facts, **about}
    logger.error("stage %s failed in the worker itself", held.job.stage, exc_info=error)
    message = f"{type(error).__name__}: {error}".splitlines()[0]
    return {"code": "internal", "message": message, "hint": "", **about}


def _settle(held: "Held", change: Callable[[Session], bool]) -> bool:
    """Make the change, however long the record is away; False if the guard did not hold."""
    while True:
        try:
            with held.database.transaction() as session:
                held_still = change(session)
                hit("ending.written")
        except UnavailableError as error:
            if held.draining():
                raise Lost from error
            logger.warning("job %s: the record is away (%s); its end is told when it is back", held.job.id, error)
            time.sleep(SETTLE_S)
        else:
            hit("ending.committed")
            return held_still
