"""``celora.slots``: one look at the schedules. Gives each slot that is due its job, once.

A task of its own beside the tick, at the same interval: reading a file that grew may take a while, and nobody's job
should wait for that. Everything that a slot leads to (its row, its job, the schedule's next time) is one transaction
that holds the schedule's row, so it happens once and whole, whoever looks, however late, and whatever dies.
"""

import logging
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from ..models import schedules
from ..models.database import Database, get_database, now
from ..models.schedule_tables import Schedule
from ..scheduling.calendar import Rhythm
from ..scheduling.due import Missed, Overlap, look
from ..settings.errors import CeloraError, StorageError, UnavailableError
from ..settings.failpoints import hit
from ..settings.settings import Settings, get_settings
from ..workers.carry import poke
from . import freshness
from .base import task
from .orders import Order, give, next_in_line, told

logger = logging.getLogger(__name__)


@task("slots", ignore_result=True, send_events=False)
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
                schedules.blame(session, schedule_id, told(error))
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
            count = next_in_line(session, settings, held)
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
        fault = told(error)
    with database.transaction() as session:
        held = schedules.hold(session, schedule.id)
        if held is None or held.paused:
            return 0
        _blame_or_forgive(session, held, looked, fault)
        count = next_in_line(session, settings, held)
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


def _key(at: datetime) -> str:
    return f"{at:%Y%m%dT%H%M%SZ}"
