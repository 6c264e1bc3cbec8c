"""Submits the jobs of the schedules that are due, each run once.

Everything that a run leads to (its row, its job, the schedule's next time) is one transaction that holds the schedule's
row. A run therefore happens once and completely, whichever process runs the round, however late, and wherever it dies.
"""

import logging
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from ...errors import CeloraError, StorageError, UnavailableError
from ...models import schedules
from ...models.database import Database, now
from ...models.notifications.notices import Notice, queue_notice
from ...models.scope.scope import Scope
from ...models.tables.schedule import Schedule
from ...scheduling.cron import next_times
from ...scheduling.due import Missed, Overlap, find_due
from ...settings.failpoints import hit
from ...settings.settings import Settings
from ...workers.messages import request_tick
from .. import data_changes
from ..schedule_runs import Order, error_text, start_run, submit_next_waiting
from ..schedules import rhythm_of

logger = logging.getLogger(__name__)


def run_due_schedules(database: Database, settings: Settings) -> int:
    """Run every schedule that is due, and request a scheduling round if a job was submitted.

    A schedule that fails gets the error as its fault and stops no other schedule.

    Returns:
        The number of jobs that were submitted.
    """
    with database.session(Scope.everything) as session:
        wanted = schedules.due_or_watching(session)
    submitted = 0
    for schedule_id in wanted:
        try:
            submitted += run_schedule(database, settings, schedule_id)
        except Exception as error:
            logger.exception("schedule %s could not be looked at", schedule_id)
            with database.transaction(Scope.everything) as session:
                schedules.record_fault(session, schedule_id, error_text(error))
    if submitted:
        hit("slots.committed")
        request_tick()
    return submitted


def run_schedule(database: Database, settings: Settings, schedule_id: str) -> int:
    """Submit the due runs of one schedule; return the number of new jobs."""
    with database.session(Scope.everything) as session:
        schedule = session.get(Schedule, schedule_id)
        at = now(session)
    if schedule is None or schedule.paused:
        return 0
    with data_changes.claimed_file(schedule, settings) as claimed:
        if not claimed:
            return 0
        if rhythm_of(schedule) is None:
            return _run_by_data(database, settings, schedule)
        if schedule.last_slot > at:
            _begin_anew(database, schedule_id)
            return 0
        is_due = schedule.next_slot is not None and schedule.next_slot <= at
        looked = dict(schedule.looked or {})
        order: Order = order_of(schedule, settings, looked) if is_due else schedule.spec
        with database.transaction(Scope.everything) as session:
            locked = schedules.lock(session, schedule_id)
            if locked is None or locked.paused:
                return 0
            count = submit_next_waiting(session, settings, locked)
            if is_due and locked.next_slot is not None:
                locked.looked = looked
                count += _run_by_clock(session, settings, locked, order)
            hit("slots.written")
            return count


def order_of(schedule: Schedule, settings: Settings, looked: data_changes.Looked) -> Order:
    """Return the job's fields of a run now, its file registered as a version; or the error that prevents the run.

    Raises:
        UnavailableError, StorageError: The data has no fault; the next round tries again.
    """
    try:
        return data_changes.with_version(schedule.spec, settings, looked)
    except (UnavailableError, StorageError):
        raise
    except CeloraError as error:
        return error


def _begin_anew(database: Database, schedule_id: str) -> None:
    """Continue a schedule from the present time, after a clock that was ahead was set back.

    Without this the schedule would be silent until the clock has reached the last run again. A run that happened while
    the clock was ahead is not repeated, since its key exists.
    """
    with database.transaction(Scope.everything) as session:
        locked = schedules.lock(session, schedule_id)
        at = now(session)
        rhythm = rhythm_of(locked) if locked is not None else None
        if locked is None or rhythm is None or locked.last_slot <= at:
            return
        logger.warning("schedule %s: the clock was set back; its runs continue from now", locked.name)
        locked.last_slot, locked.next_slot = at, next(iter(next_times(rhythm, at, 1)), None)


def _run_by_clock(session: Session, settings: Settings, schedule: Schedule, order: Order) -> int:
    rhythm = rhythm_of(schedule)
    if rhythm is None:
        return 0
    missed = Missed(schedule.missed)
    due = find_due(rhythm, schedule.last_slot, now(session), late_s=settings.late_s, missed=missed)
    note = ""
    if due.gap is not None:
        facts = {"missed": str(due.gap), "made_up": missed is not Missed.SKIP}
        queue_notice(session, Notice.MISSED, schedule.tenant, schedule.name, facts=facts)
    if due.gap is not None and missed is Missed.SKIP:
        key, at = _key(due.gap.last), due.gap.last
        message = f"{due.gap}; not made up for"
        schedules.claim_run(session, schedule.id, key, at=at, outcome=schedules.MISSED, message=message)
    elif due.gap is not None:
        note = f"{due.gap}; this run stands for them"
    count = 0
    for at in due.times:
        run = start_run(session, schedule, _key(at), settings=settings, at=at, order=order, note=note)
        count += run is not None and run.outcome == schedules.SUBMITTED
        note = ""
    passed = [*due.times, *([due.gap.last] if due.gap else [])]
    schedule.last_slot, schedule.next_slot = max(passed, default=schedule.last_slot), due.next_time
    return count


@dataclass(frozen=True, kw_only=True)
class _Finding:
    """The dataset of a schedule that watches data: its content, the files that were read, or a fault."""

    content: data_changes.Content | None
    has_grown: bool
    looked: data_changes.Looked
    fault: str


def _run_by_data(database: Database, settings: Settings, schedule: Schedule) -> int:
    seen = dict(schedule.seen or {})
    found = _examine_data(settings, schedule)
    with database.transaction(Scope.everything) as session:
        locked = schedules.lock(session, schedule.id)
        if locked is None or locked.paused:
            return 0
        _record_finding(session, locked, found)
        count = submit_next_waiting(session, settings, locked)
        busy = locked.overlap == Overlap.SKIP and schedules.unfinished(session, locked.id) is not None
        if found.content is not None and found.has_grown and not busy and locked.seen == seen:  # each content runs once
            reference, at = found.content.reference, now(session)
            order = {**locked.spec, "dataset": reference}
            run = start_run(session, locked, found.content.run_key(seen), settings=settings, at=at, order=order)
            locked.seen, locked.last_slot = found.content.plain(), at
            count += run is not None and run.outcome == schedules.SUBMITTED
        hit("slots.written")
        return count


def _examine_data(settings: Settings, schedule: Schedule) -> _Finding:
    """Read the dataset of a schedule that watches it, and compare it with the content of the last run."""
    looked, seen, source = dict(schedule.looked or {}), dict(schedule.seen or {}), str(schedule.spec["dataset"])
    content, has_grown, fault = None, False, ""
    try:
        content = data_changes.content(source, tenant=schedule.tenant, settings=settings, looked=looked)
        if schedule.when_new_rows is None:
            has_grown = content.differs(seen)
        elif content.sha256 != seen["sha256"]:
            count = data_changes.new_rows(content, seen, tenant=schedule.tenant, looked=looked)
            has_grown = count >= schedule.when_new_rows
    except CeloraError as error:
        fault = error_text(error)
    return _Finding(content=content, has_grown=has_grown, looked=looked, fault=fault)


def _record_finding(session: Session, schedule: Schedule, found: _Finding) -> None:
    """Record a fault of the data; where the data is valid again, clear the fault that an earlier round recorded."""
    before, fault = (schedule.looked or {}).get("fault"), found.fault
    if fault and schedule.last_error != fault:
        schedule.last_error, schedule.last_error_at = fault, now(session)
        logger.warning("schedule %s: %s", schedule.name, fault)
    elif not fault and before and schedule.last_error == before:
        schedule.last_error = schedule.last_error_at = None
    looked = {name: value for name, value in found.looked.items() if name != "fault"} | (
        {"fault": fault} if fault else {}
    )
    if looked != schedule.looked:
        schedule.looked = looked


def _key(at: datetime) -> str:
    return f"{at:%Y%m%dT%H%M%SZ}"
