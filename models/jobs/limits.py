"""Pauses a running job that has reached its own budget or a limit of its tenant, and lets it go on later.

The pause is the one that a person can ask for: the trainer writes a checkpoint at its next step and the worker returns
the job, so a job overruns a limit by a heartbeat and a step at most. ``Job.pause_cause`` says who paused: a job that
its tenant's limit paused goes on by itself once there is room, one that its own budget paused when the budget is
raised.
"""

from sqlalchemy.orm import Session

from ...errors import SettingsError
from ..events import record_event
from ..notifications.notices import Notice, queue_notice
from ..rows import Claim, lock_if
from ..states import Reason, Status
from ..tables import Job
from ..tables.types import JsonObject
from ..tenants import ledger
from ..tenants.use import Use
from .lifecycle import device_seconds

BUDGET, LIMIT = "budget", "limit"
_WORDS = {"gpu_minutes": "the device minutes of this month", "budget": "the budget of this month"}


def pause_at_limit(session: Session, job: Job, claim: Claim, *, ahead_s: float) -> None:
    """Request the pause of a running job that has used up its budget or its tenant's month.

    Args:
        session: An open session that holds the job's row.
        job: The running job.
        claim: Its worker's claim, for the price.
        ahead_s: Seconds until the next renewals, for which the job holds beforehand.
    """
    if not job.stage.on_gpu or job.pause_requested or job.claimed_at is None:
        return
    ran_s = device_seconds(job, max(0.0, (job.updated_at - job.claimed_at).total_seconds()))
    price = claim.price_per_hour / 3600
    cost, budget = job.cost + ran_s * price, budget_of(job)
    if budget is not None and cost >= budget:
        message = f"its budget of {budget:g} is used ({cost:.4g}); it checkpoints and pauses"
        job.limited = {"code": "job_budget", "job_id": job.id, "cost": round(cost, 6), "limit": budget}
        _pause(session, job, BUDGET, message, {"budget": budget, "cost": round(cost, 6)})
        return
    lacks = ledger.grow(session, job, Use.of(ran_s, ran_s * price), Use.of(ahead_s, ahead_s * price))
    if lacks is not None:
        message = f"tenant {job.tenant} has used {_WORDS[lacks]}; the job checkpoints and pauses"
        _pause(session, job, LIMIT, message, {"limit": lacks, "seconds": round(ran_s, 3), "cost": round(cost, 6)})


def limit_waiting(session: Session, job_id: str, limited: JsonObject | None, words: str = "") -> bool:
    """Record the limit that keeps a waiting job from a slot, or that none does any more.

    A job that its tenant's limit paused goes on with that.

    Args:
        session: An open session; it holds no row of the ledger.
        job_id: The job.
        limited: The limit's code and numbers; None where the job may have a slot.
        words: The sentence that people read.
    """
    job = lock_if(session, job_id, Job.status == Status.PENDING)
    if job is None:
        return False
    if limited is None and job.paused and job.pause_cause == LIMIT:
        job.paused, job.pause_cause, job.reason = False, None, Reason.NONE
        message = "goes on: its tenant's limits have room again"
        record_event(session, job_id, job.attempt, "info", "unpaused", message, {})
    if limited != job.limited:
        job.limited, job.wait_reason = limited, words
    session.flush()
    return True


def budget_of(job: Job) -> float | None:
    """Return the money that a job may cost; None without a limit."""
    found: float | None = job.spec.get("budget")
    return found


def check_budget(job: Job) -> None:
    """Check that a job has not used its budget.

    Raises:
        SettingsError: It has.
    """
    budget = budget_of(job)
    if job.pause_cause == BUDGET and budget is not None and job.cost >= budget:
        raise SettingsError(
            f"job {job.id} has used its budget: {job.cost:.4g} of {budget:g}.",
            hint=f"Give it more: celora resume {job.id} --budget {2 * max(budget, job.cost):.4g}",
        )


def set_budget(job: Job, budget: float) -> None:
    """Change the money that a job may cost.

    Raises:
        SettingsError: It is less than what the job has used already.
    """
    if not job.cost <= budget < float("inf"):
        raise SettingsError(
            f"budget: {budget:g} is below the {job.cost:.4g} that job {job.id} has used already.",
            hint="Give a larger one.",
        )
    job.spec = {**job.spec, "budget": budget}


def _pause(session: Session, job: Job, cause: str, message: str, data: JsonObject) -> None:
    job.pause_requested, job.pause_cause = True, cause
    record_event(session, job.id, job.attempt, "warning", f"{cause}_reached", message, data)
    queue_notice(session, Notice.PAUSED, job.tenant, job.id, job_id=job.id, facts={"cause": cause, **data})
