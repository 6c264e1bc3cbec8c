"""Turns one due run of a schedule into a job, a waiting run, or a recorded failure with its reason.

The caller holds the lock of the schedule's row; every change here is part of the caller's transaction.
"""

import hashlib
import logging
import re
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy.orm import Session

from ..errors import CeloraError
from ..models import schedules
from ..models.database import now
from ..models.events import record_event
from ..models.jobs.accept import reject
from ..models.jobs.requests import request_cancel
from ..models.rows import lock_if
from ..models.spec import known_fields
from ..models.states import Status
from ..models.tables import Job
from ..models.tables.schedule import Schedule, ScheduleRun
from ..models.tenants.audit import Actor, acting
from ..scheduling.due import Before, Overlap, Step, choose_step
from ..settings.settings import Settings
from .acceptance import write_job
from .job_checks import check_spec, place_datasets

logger = logging.getLogger(__name__)

Order = Mapping[str, object] | CeloraError
"""The fields of a run's job, or the error that prevented the service from determining them."""


def start_run(
    session: Session,
    schedule: Schedule,
    key: str,
    *,
    settings: Settings,
    at: datetime,
    order: Order,
    note: str = "",
    overlap: Overlap | None = None,
) -> ScheduleRun | None:
    """Claim a run of a schedule, and submit it, queue it or skip it by the rule for overlaps.

    Args:
        session: An open transaction that holds the lock of the schedule's row.
        schedule: The schedule.
        key: The run's key; a key is claimed once.
        settings: Settings of the installation.
        at: The time at which the run was due.
        order: The job's fields.
        note: A remark for the run's message.
        overlap: A rule in place of the schedule's own.

    Returns:
        The run; None if its key was claimed before.
    """
    if isinstance(order, CeloraError):
        run = schedules.claim_run(session, schedule.id, key, at=at, outcome=schedules.FAILED, message=note)
        if run is not None:
            _reject(session, schedule, run, schedule.spec, order)
        return run
    rule = overlap or Overlap(schedule.overlap)
    before, queue = schedules.unfinished(session, schedule.id), schedules.waiting_runs(session, schedule.id)
    step = choose_step(rule, _state_of(before), queue=bool(queue))
    busy = f"job {before.id}" if before is not None else f"run {queue[-1].key}" if queue else ""
    if step is Step.SKIP:
        message = _joined(f"{busy} is not over", note)
        return schedules.claim_run(session, schedule.id, key, at=at, outcome=schedules.SKIPPED, message=message)
    run = schedules.claim_run(session, schedule.id, key, at=at, outcome=schedules.WAITING, message=note)
    if run is None:
        return None
    if rule is Overlap.REPLACE:
        for older in queue:
            _mark_replaced(older, key)
    if step is Step.REPLACE and before is not None and not _withdraw(session, before, key):
        step = Step.WAIT  # a worker claimed the job just now
    if step is Step.WAIT:
        run.message = _joined(f"behind {busy}", note)
        _let_wait(session, settings, schedule, run, order)
    else:
        _submit(session, settings, schedule, run, order)
    return run


def submit_next_waiting(session: Session, settings: Settings, schedule: Schedule) -> int:
    """Submit the run that has waited longest, if the job before it has ended; return the number of new jobs."""
    queue = schedules.waiting_runs(session, schedule.id)
    while queue and schedules.unfinished(session, schedule.id) is None:
        run = queue.pop(0)
        if _submit(session, settings, schedule, run, run.spec or schedule.spec):
            return 1
    return 0


def job_id_of(schedule: Schedule, key: str) -> str:
    """Compute the id of the job that a run trains, from the schedule and the key alone."""
    digest = hashlib.sha256(f"{schedule.id} {key}".encode()).hexdigest()[:10]
    words = (re.sub(r"[^A-Za-z0-9]+", "-", part)[:24].strip("-") for part in (schedule.name, key))
    return "-".join((*words, digest))


def error_text(error: Exception) -> str:
    """Return an error as one sentence."""
    return str(error) if isinstance(error, CeloraError) else f"{type(error).__name__}: {error}"


def _submit(
    session: Session, settings: Settings, schedule: Schedule, run: ScheduleRun, fields: Mapping[str, object]
) -> bool:
    job_id = job_id_of(schedule, run.key)
    try:
        spec = check_spec(known_fields(fields), settings)
        with acting(Actor(f"schedule {schedule.name}")):
            write_job(session, settings, job_id, spec, None)
    except CeloraError as error:
        _reject(session, schedule, run, fields, error)
        return False
    data = {"schedule": schedule.name, "slot": run.key}
    record_event(session, job_id, 1, "info", "scheduled", f"run {run.key} of schedule {schedule.name}", data)
    run.job_id, run.outcome, run.spec = job_id, schedules.SUBMITTED, None
    schedule.last_error = schedule.last_error_at = None
    session.flush()
    logger.info("schedule %s: run %s is job %s", schedule.name, run.key, job_id)
    return True


def _let_wait(
    session: Session, settings: Settings, schedule: Schedule, run: ScheduleRun, fields: Mapping[str, object]
) -> None:
    """Mark a run as waiting, and fix the versions that its datasets have at its own time."""
    try:
        spec, _ = place_datasets(session, check_spec(known_fields(fields), settings), settings)
    except CeloraError as error:
        _reject(session, schedule, run, fields, error)
        return
    run.spec = spec.model_dump(mode="json")
    session.flush()


def _reject(
    session: Session, schedule: Schedule, run: ScheduleRun, fields: Mapping[str, object], error: CeloraError
) -> None:
    """Record a run that cannot be trained as a failed job with its reason, and the reason as the schedule's fault."""
    job_id = job_id_of(schedule, run.key)
    facts = {"code": error.code, "message": error.message, "hint": error.hint, "stage": "submit", "log_tail": ""}
    reject(session, job_id, {**fields, "tenant": schedule.tenant}, facts, None)
    run.job_id, run.outcome, run.spec = job_id, schedules.FAILED, None
    run.message = _joined(error_text(error), run.message)
    schedule.last_error, schedule.last_error_at = error_text(error), now(session)
    session.flush()
    logger.warning("schedule %s: run %s failed: %s", schedule.name, run.key, error)


def _state_of(job: Job | None) -> Before:
    if job is None:
        return Before.OVER
    return Before.WAITING if job.started_at is None and job.status is not Status.RUNNING else Before.RUNNING


def _withdraw(session: Session, job: Job, key: str) -> bool:
    """Cancel a job that no worker has claimed; return False if a worker claimed it meanwhile."""
    waits = (Job.status.in_((Status.PENDING, Status.QUEUED)), Job.started_at.is_(None))
    if lock_if(session, job.id, *waits) is None:
        return False
    request_cancel(session, job.id)
    run = schedules.run_of(session, job.id)
    if run is not None:
        _mark_replaced(run, key)
    return True


def _mark_replaced(run: ScheduleRun, key: str) -> None:
    run.outcome, run.spec = schedules.REPLACED, None
    run.message = _joined(f"run {key} came before its turn", run.message)


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))
