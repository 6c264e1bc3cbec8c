"""What becomes of a slot's order: a job, a place in the line, or a failure that says why.

The caller holds the schedule's row; everything here happens in its transaction.
"""

import hashlib
import logging
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from ..models import datasets, journal, schedules, transitions
from ..models.database import now
from ..models.schedule_tables import Schedule, Slot
from ..models.states import Status
from ..models.tables import Job
from ..scheduling.due import Before, Overlap, Step, step
from ..settings.errors import CeloraError
from ..settings.settings import Settings
from . import submission

logger = logging.getLogger(__name__)

Order = Mapping[str, Any] | CeloraError
"""A job's fields, or what made it impossible to tell them."""


def give(
    session: Session,
    schedule: Schedule,
    key: str,
    *,
    settings: Settings,
    at: datetime,
    order: Order,
    note: str = "",
    overlap: Overlap | None = None,
) -> Slot | None:
    """Claim a slot and do with it what the schedule's rule for overlaps says; the caller holds the schedule's row.

    Args:
        session: An open transaction.
        schedule: The schedule, held.
        key: The slot's; the same key is dealt with once.
        settings: Of the installation.
        at: Its time.
        order: What to train.
        note: What else there is to say about the slot.
        overlap: A rule instead of the schedule's.

    Returns:
        The slot; None if it was dealt with before.
    """
    if isinstance(order, CeloraError):
        slot = schedules.claim(session, schedule.id, key, at=at, outcome=schedules.FAILED, message=note)
        if slot is not None:
            _reject(session, schedule, slot, schedule.spec, order)
        return slot
    rule = overlap or Overlap(schedule.overlap)
    before, queue = schedules.unfinished(session, schedule.id), schedules.waiting(session, schedule.id)
    chosen = step(rule, _stands(before), queue=bool(queue))
    busy = f"job {before.id}" if before is not None else f"slot {queue[-1].key}" if queue else ""
    if chosen is Step.SKIP:
        message = "; ".join(filter(None, (f"{busy} is not over", note)))
        return schedules.claim(session, schedule.id, key, at=at, outcome=schedules.SKIPPED, message=message)
    slot = schedules.claim(session, schedule.id, key, at=at, outcome=schedules.WAITING, message=note)
    if slot is None:
        return None
    if rule is Overlap.REPLACE:
        for older in queue:
            _replaced(older, key)
    if chosen is Step.REPLACE and before is not None and not _withdraw(session, before, key):
        chosen = Step.WAIT  # a worker began it just now
    if chosen is Step.WAIT:
        slot.message = "; ".join(filter(None, (f"behind {busy}", note)))
        _keep(session, settings, schedule, slot, order)
    else:
        _submit(session, settings, schedule, slot, order)
    return slot


def next_in_line(session: Session, settings: Settings, schedule: Schedule) -> int:
    """Submit the slot that has waited longest, if the job before it is over."""
    queue = schedules.waiting(session, schedule.id)
    while queue and schedules.unfinished(session, schedule.id) is None:
        slot = queue.pop(0)
        if _submit(session, settings, schedule, slot, slot.spec or schedule.spec):
            return 1
    return 0


def job_id_of(schedule: Schedule, key: str) -> str:
    """The id of the job that trains a slot: told by the schedule and the slot alone."""
    digest = hashlib.sha256(f"{schedule.id} {key}".encode()).hexdigest()[:10]
    words = (re.sub(r"[^A-Za-z0-9]+", "-", part)[:24].strip("-") for part in (schedule.name, key))
    return "-".join((*words, digest))


def told(error: Exception) -> str:
    """An error in a sentence."""
    return str(error) if isinstance(error, CeloraError) else f"{type(error).__name__}: {error}"


def _submit(session: Session, settings: Settings, schedule: Schedule, slot: Slot, fields: Mapping[str, Any]) -> bool:
    job_id = job_id_of(schedule, slot.key)
    try:
        spec = submission.check_spec(dict(fields), settings)
        submission.write(session, job_id, spec, None)
    except CeloraError as error:
        _reject(session, schedule, slot, fields, error)
        return False
    data = {"schedule": schedule.name, "slot": slot.key}
    journal.event(session, job_id, 1, "info", "scheduled", f"slot {slot.key} of schedule {schedule.name}", data)
    slot.job_id, slot.outcome, slot.spec = job_id, schedules.SUBMITTED, None
    schedule.last_error = schedule.last_error_at = None
    session.flush()
    logger.info("schedule %s: slot %s is job %s", schedule.name, slot.key, job_id)
    return True


def _keep(session: Session, settings: Settings, schedule: Schedule, slot: Slot, fields: Mapping[str, Any]) -> None:
    """Let a slot wait, with the data as it is at its moment."""
    try:
        spec, _ = datasets.resolved(session, submission.check_spec(dict(fields), settings))
    except CeloraError as error:
        _reject(session, schedule, slot, fields, error)
        return
    slot.spec = spec.model_dump(mode="json")
    session.flush()


def _reject(session: Session, schedule: Schedule, slot: Slot, fields: Mapping[str, Any], error: CeloraError) -> None:
    """A slot that can't be trained is a failed job, which says why; so does the schedule."""
    job_id = job_id_of(schedule, slot.key)
    facts = {"code": error.code, "message": error.message, "hint": error.hint, "stage": "submit", "log_tail": ""}
    transitions.reject(session, job_id, {**fields, "tenant": schedule.tenant}, facts, None)
    message = "; ".join(filter(None, (told(error), slot.message)))
    slot.job_id, slot.outcome, slot.spec, slot.message = job_id, schedules.FAILED, None, message
    schedule.last_error, schedule.last_error_at = told(error), now(session)
    session.flush()
    logger.warning("schedule %s: slot %s failed: %s", schedule.name, slot.key, error)


def _stands(job: Job | None) -> Before:
    if job is None:
        return Before.OVER
    return Before.WAITING if job.started_at is None and job.status is not Status.RUNNING else Before.RUNNING


def _withdraw(session: Session, job: Job, key: str) -> bool:
    """Cancel a job that no worker has begun; False if one did meanwhile."""
    waits = (Job.status.in_((Status.PENDING, Status.QUEUED)), Job.started_at.is_(None))
    if journal.take(session, job.id, *waits) is None:
        return False
    transitions.request_cancel(session, job.id)
    slot = schedules.slot_of(session, job.id)
    if slot is not None:
        _replaced(slot, key)
    return True


def _replaced(slot: Slot, key: str) -> None:
    slot.outcome, slot.spec = schedules.REPLACED, None
    slot.message = "; ".join(filter(None, (f"slot {key} came before its turn", slot.message)))
