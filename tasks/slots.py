"""``celora.slots``: one look at the schedules. Gives each slot that is due its job, once.

A task of its own beside the tick, at the same interval: reading a file that grew may take a while, and nobody's job
should wait for that. Everything that a slot leads to (its row, its job, the schedule's next time) is one transaction
that holds the schedule's row, so it happens once and whole, whoever looks, however late, and whatever dies.
"""

import hashlib
import logging
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from ..models import datasets, journal, schedules, transitions
from ..models.database import Database, get_database, now
from ..models.schedule_tables import Schedule, Slot
from ..models.states import Status
from ..models.tables import Job
from ..scheduling.calendar import Rhythm
from ..scheduling.due import Before, Missed, Overlap, Step, look, step
from ..settings.errors import CeloraError, StorageError, UnavailableError
from ..settings.failpoints import hit
from ..settings.settings import Settings, get_settings
from ..workers.carry import poke
from . import freshness, submission
from .base import task

logger = logging.getLogger(__name__)

Order = Mapping[str, Any] | CeloraError
"""A job's fields, or what made it impossible to tell them."""


@task("slots", ignore_result=True)
def slots(self: Any) -> None:  # noqa: ARG001  (Celery binds every task)
    """Look at every schedule that may be due."""
    if look_at_all(get_database(), get_settings()):
        hit("slots.committed")
        poke()


def look_at_all(database: Database, settings: Settings) -> int:
    """Deal with every schedule that may be due; one that breaks is told so and stops none of the others.

    Returns:
        How many jobs were submitted.
    """
    with database.session() as session:
        wanted = schedules.to_look_at(session)
    submitted = 0
    for schedule_id in wanted:
        try:
            submitted += deal(database, settings, schedule_id)
        except Exception as error:
            logger.exception("schedule %s could not be looked at", schedule_id)
            with database.transaction() as session:
                schedules.blame(session, schedule_id, _told(error))
    return submitted


def deal(database: Database, settings: Settings, schedule_id: str) -> int:
    """Deal with one schedule; returns how many jobs it got."""
    with database.session() as session:
        schedule = session.get(Schedule, schedule_id)
        at = now(session)
    if schedule is None or schedule.paused:
        return 0
    with freshness.alone(schedule, settings) as mine:
        if not mine:
            return 0
        if rhythm_of(schedule) is None:
            return _by_data(database, settings, schedule)
        is_due = schedule.next_slot is not None and schedule.next_slot <= at
        looked = dict(schedule.looked or {})
        order: Order = order_of(schedule, settings, looked) if is_due else schedule.spec
        with database.transaction() as session:
            held = schedules.hold(session, schedule_id)
            if held is None or held.paused:
                return 0
            count = _next_in_line(session, settings, held)
            if is_due and held.next_slot is not None:
                held.looked = looked
                count += _by_clock(session, settings, held, order)
            hit("slots.written")
            return count


def rhythm_of(schedule: Schedule) -> Rhythm | None:
    """When the schedule is due by the clock; None for one that watches data."""
    if schedule.cron is None and schedule.every_s is None:
        return None
    anchor = schedule.created_at.replace(microsecond=0)
    return Rhythm(cron=schedule.cron, timezone=schedule.timezone, every_s=schedule.every_s, anchor=anchor)


def order_of(schedule: Schedule, settings: Settings, looked: freshness.Looked) -> Order:
    """What a slot of this moment would train, its file taken in; or the error that is in the way.

    Raises:
        UnavailableError, StorageError: Nothing is wrong with the data; the next round tries again.
    """
    try:
        return freshness.taken_in(schedule.spec, settings, looked)
    except (UnavailableError, StorageError):
        raise
    except CeloraError as error:
        return error


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


def job_id_of(schedule: Schedule, key: str) -> str:
    """The id of the job that trains a slot: told by the schedule and the slot alone."""
    digest = hashlib.sha256(f"{schedule.id} {key}".encode()).hexdigest()[:10]
    words = (re.sub(r"[^A-Za-z0-9]+", "-", part)[:24].strip("-") for part in (schedule.name, key))
    return "-".join((*words, digest))


def _by_clock(session: Session, settings: Settings, schedule: Schedule, order: Order) -> int:
    rhythm = rhythm_of(schedule)
    if rhythm is None:
        return 0
    missed = Missed(schedule.missed)
    due = look(rhythm, schedule.last_slot, now(session), late_s=settings.late_s, missed=missed)
    note = ""
    if due.gap is not None and missed is Missed.SKIP:
        key = _key(due.gap.last)
        schedules.claim(
            session, schedule.id, key, at=due.gap.last, outcome=schedules.MISSED, message=f"{due.gap}; not made up for"
        )
    elif due.gap is not None:
        note = f"{due.gap}; this run stands for them"
    count = 0
    for at in due.slots:
        slot = give(session, schedule, _key(at), settings=settings, at=at, order=order, note=note)
        count += slot is not None and slot.outcome == schedules.SUBMITTED
        note = ""
    passed = [*due.slots, *([due.gap.last] if due.gap else [])]
    schedule.last_slot, schedule.next_slot = max(passed, default=schedule.last_slot), due.next_slot
    return count


def _by_data(database: Database, settings: Settings, schedule: Schedule) -> int:
    looked, seen = dict(schedule.looked or {}), dict(schedule.seen or {})
    source, fault, found, grown = str(schedule.spec["dataset"]), "", None, False
    try:
        found = freshness.content(source, tenant=schedule.tenant, settings=settings, looked=looked)
        grown = found.sha256 != seen["sha256"] and (
            schedule.when_new_rows is None
            or freshness.new_rows(found, seen, tenant=schedule.tenant, looked=looked) >= schedule.when_new_rows
        )
    except CeloraError as error:
        fault = _told(error)
    with database.transaction() as session:
        held = schedules.hold(session, schedule.id)
        if held is None or held.paused:
            return 0
        _blame_or_forgive(session, held, looked, fault)
        count = _next_in_line(session, settings, held)
        busy = held.overlap == Overlap.SKIP and schedules.unfinished(session, held.id) is not None
        if found is not None and grown and not busy and held.seen == seen:  # the same rows fire once
            order = {**held.spec, "dataset": found.reference}
            at = now(session)
            slot = give(session, held, found.reference, settings=settings, at=at, order=order)
            held.seen, held.last_slot = found.plain(), at
            count += slot is not None and slot.outcome == schedules.SUBMITTED
        hit("slots.written")
        return count


def _blame_or_forgive(session: Session, schedule: Schedule, looked: freshness.Looked, fault: str) -> None:
    """Tell what is wrong with the data; where it is well again, forget what was said about it, and only that."""
    before = (schedule.looked or {}).get("fault")
    if fault and schedule.last_error != fault:
        schedule.last_error, schedule.last_error_at = fault, now(session)
        logger.warning("schedule %s: %s", schedule.name, fault)
    elif not fault and before and schedule.last_error == before:
        schedule.last_error = schedule.last_error_at = None
    looked = {**looked, "fault": fault} if fault else {name: looked[name] for name in looked if name != "fault"}
    if looked != schedule.looked:
        schedule.looked = looked


def _next_in_line(session: Session, settings: Settings, schedule: Schedule) -> int:
    """Submit the slot that has waited longest, if the job before it is over."""
    queue = schedules.waiting(session, schedule.id)
    while queue and schedules.unfinished(session, schedule.id) is None:
        slot = queue.pop(0)
        if _submit(session, settings, schedule, slot, slot.spec or schedule.spec):
            return 1
    return 0


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
    message = "; ".join(filter(None, (_told(error), slot.message)))
    slot.job_id, slot.outcome, slot.spec, slot.message = job_id, schedules.FAILED, None, message
    schedule.last_error, schedule.last_error_at = _told(error), now(session)
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


def _key(at: datetime) -> str:
    return f"{at:%Y%m%dT%H%M%SZ}"


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, CeloraError) else f"{type(error).__name__}: {error}"
