"""What a person or a program does with schedules: ``from celora.tasks import schedules; schedules.add("weekly", …)``.

    schedules.add("weekly", spec, cron="0 3 * * 1", timezone="Europe/Berlin")
    schedules.add("often", spec, every="6h", overlap="queue")
    schedules.add("grown", spec | {"dataset": "support-faq"}, when_new_rows=500)
    schedules.show("weekly")["upcoming"]

The record is the truth: nothing here needs a broker or a worker. What a schedule would stumble over at its slots (a
wrong spec, a line that never fires, a dataset that is not there) is refused when it is added.
"""

import difflib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ..models import datasets as versions
from ..models import schedules as record
from ..models.database import get_database, now
from ..models.schedule_tables import Schedule, Slot
from ..models.spec import JobSpec, parse_spec
from ..scheduling.calendar import Rhythm, check_cron, next_slots, parse_every, zone
from ..scheduling.due import Missed, Overlap
from ..settings.errors import SettingsError
from ..settings.settings import Settings, get_settings
from ..workers.carry import poke
from . import freshness, orders, slots
from .submission import check_spec, new_job_id

UPCOMING = 5
"""Slots that ``show`` tells ahead."""

TRIGGERS = ("cron", "every", "when_new_rows", "when_data_changed")


def add(
    name: str,
    spec: Mapping[str, Any],
    *,
    cron: str | None = None,
    timezone: str | None = None,
    every: str | None = None,
    when_new_rows: int | None = None,
    when_data_changed: bool = False,
    missed: str = Missed.RUN_ONCE,
    overlap: str = Overlap.SKIP,
) -> dict[str, Any]:
    """Write a schedule down; it is due for the first time at its first slot after now.

    Args:
        name: Of the schedule; its tenant is the spec's.
        spec: The job's fields. A dataset is NAME (its newest version at each slot), NAME@VERSION, an absolute path
            (read again when it changed), or a URL. Held-out rows that are a file are taken in now, and stay.
        cron: Five fields: minute, hour, day of the month, month, day of the week.
        timezone: Whose wall clock the line speaks of; UTC unless given.
        every: An interval: ``90s``, ``30m``, ``6h``, ``1d12h``, ``2w``.
        when_new_rows: Train when the dataset has so many rows that it had not when it was last trained.
        when_data_changed: Train when the dataset holds anything else than when it was last trained.
        missed: ``run-once`` or ``skip``: what becomes of slots that nobody looked for in time.
        overlap: ``skip``, ``queue`` or ``replace``: what becomes of a slot while the job before it is not over.

    Returns:
        As ``show``.

    Raises:
        SettingsError: A field is wrong, the line never fires, the zone is unknown, or the name is taken.
        DataError, NotFoundError, BaseModelError: What the spec names is not there, or refused.
    """
    settings, name = get_settings(), _check_name(name)
    given = {"cron": cron, "every": every, "when_new_rows": when_new_rows, "when_data_changed": when_data_changed}
    when = _when({name: value for name, value in given.items() if value is not None and value is not False}, timezone)
    rules = {"missed": _one_of(Missed, "missed", missed), "overlap": _one_of(Overlap, "overlap", overlap)}
    checked = check_spec(dict(spec), settings)
    looked: freshness.Looked = {}
    fields = _fixed(spec, checked, settings)
    seen = _content(checked, settings, looked, watched="cron" not in when and "every_s" not in when)
    with get_database().transaction() as session:
        at = now(session)
        row = {"id": new_job_id(), "name": name, "tenant": checked.tenant, "spec": fields, **when, **rules}
        schedule = record.create(session, **row, seen=seen, looked=looked or None, created_at=at, last_slot=at)
        schedule.next_slot = _first(schedule)
        session.flush()
        return _told(schedule, [])


def listed(tenant: str | None = None) -> list[dict[str, Any]]:
    """Every schedule by name, each with its ``last`` slot and what became of it."""
    with get_database().session() as session:
        return record.listed(session, tenant)


def show(name: str, *, tenant: str = "default", limit: int = 10) -> dict[str, Any]:
    """A schedule: its columns, ``upcoming`` (the next five slots), ``slots`` (what became of the last ones).

    Raises:
        NotFoundError: There is none of that name.
    """
    with get_database().session() as session:
        schedule = record.find(session, tenant, name)
        return _told(schedule, record.recent(session, schedule.id, limit=limit), now(session))


def pause(name: str, *, tenant: str = "default") -> None:
    """Give a schedule no jobs until it is resumed; a job that it has goes on.

    Raises:
        NotFoundError: There is none of that name.
    """
    with get_database().transaction() as session:
        _held(session, tenant, name).paused = True


def resume(name: str, *, tenant: str = "default") -> None:
    """Let a schedule go on from now. Slots of the meantime are not made up for; data that changed meanwhile counts.

    Raises:
        NotFoundError: There is none of that name.
    """
    with get_database().transaction() as session:
        schedule = _held(session, tenant, name)
        if schedule.paused:
            schedule.paused, schedule.last_slot = False, now(session)
            schedule.next_slot = _first(schedule)


def run_now(name: str, *, tenant: str = "default") -> dict[str, Any]:
    """Train at once, paused or not; behind the job that the schedule has, if that is not over.

    Returns:
        ``outcome`` (``submitted`` or ``waiting``), ``job_id`` and ``message`` of the slot.

    Raises:
        NotFoundError: There is no schedule, or no dataset, of that name.
        CeloraError: What the spec names is refused now; nothing was written.
    """
    settings, database = get_settings(), get_database()
    with database.session() as session:
        schedule = record.find(session, tenant, name)
    looked = dict(schedule.looked or {})
    fields = freshness.taken_in(schedule.spec, settings, looked)
    seen = _content(parse_spec(dict(fields)), settings, looked, watched=schedule.seen is not None)
    check_spec(fields, settings)
    with database.transaction() as session:
        held = _held(session, tenant, name)
        at = now(session)
        held.looked, held.seen = looked or None, seen
        key = f"now-{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03d}Z"
        slot = orders.give(session, held, key, settings=settings, at=at, order=fields, overlap=Overlap.QUEUE)
        answer = _answer(held, slot)
    poke()
    return answer


def remove(name: str, *, tenant: str = "default") -> None:
    """Remove a schedule and what is known of its slots; its jobs and adapters stay.

    Raises:
        NotFoundError: There is none of that name.
    """
    with get_database().transaction() as session:
        session.delete(_held(session, tenant, name))


def _answer(schedule: Schedule, slot: Slot | None) -> dict[str, Any]:
    if slot is None:
        raise SettingsError("it was run this very moment.", hint=f"See `celora schedule show {schedule.name}`.")
    message = slot.message
    if slot.outcome == record.WAITING:
        message = f"it waits {slot.message}"
        message += f", and for `celora schedule resume {schedule.name}`" if schedule.paused else ""
    return {"outcome": slot.outcome, "job_id": slot.job_id, "message": message}


def _held(session: Any, tenant: str, name: str) -> Schedule:
    schedule = record.hold(session, record.find(session, tenant, name).id)
    return schedule if schedule is not None else record.find(session, tenant, name)


def _when(given: dict[str, Any], timezone: str | None) -> dict[str, Any]:
    """The columns that say when, out of the one trigger that was given."""
    if len(given) != 1:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in TRIGGERS)
        what = " and ".join(given) or "nothing"
        raise SettingsError(f"a schedule needs one way to be due, not {what}.", hint=f"Give one of {options}.")
    if timezone is not None and "cron" not in given:
        raise SettingsError(
            "timezone: only a cron line speaks of a wall clock.", hint="Leave it away, or give a cron line."
        )
    if "cron" in given:
        return {"cron": check_cron(given["cron"]), "timezone": zone(timezone or "UTC").key}
    if "every" in given:
        return {"every_s": parse_every(given["every"])}
    if "when_new_rows" in given and given["when_new_rows"] < 1:
        raise SettingsError("when_new_rows: it is a number of rows, 1 or more.")
    return given


def _one_of(kind: type[Missed | Overlap], name: str, given: str) -> str:
    words = given.replace("_", "-").lower()
    known = [member.value for member in kind]
    if words in known:
        return words
    near = difflib.get_close_matches(words, known, n=1)
    raise SettingsError(
        f"{name}: {given!r} is none of {', '.join(known)}" + (f"; did you mean {near[0]}?" if near else ".")
    )


def _check_name(name: str) -> str:
    if not versions.NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} cannot be a schedule's name.",
            hint="Use 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit.",
        )
    return name


def _fixed(spec: Mapping[str, Any], checked: JobSpec, settings: Settings) -> dict[str, Any]:
    """The spec as it is kept: what was given, typed; rows to measure on that are a file taken in, and fixed."""
    kept = parse_spec(dict(spec)).model_dump(mode="json", exclude_unset=True)

    def fixed(source: str) -> str:
        if not freshness.is_file(source, settings):
            return source
        return freshness.content(source, tenant=checked.tenant, settings=settings, looked={}).reference

    held_out = kept.get("eval_dataset")
    if isinstance(held_out, str):
        kept["eval_dataset"] = fixed(held_out)
    elif held_out:
        kept["eval_dataset"] = {name: fixed(source) for name, source in held_out.items()}
    if checked.gate is not None and checked.gate.must_pass:
        kept["gate"]["must_pass"] = fixed(checked.gate.must_pass)
    return kept


def _content(spec: JobSpec, settings: Settings, looked: freshness.Looked, *, watched: bool) -> dict[str, str] | None:
    """What the dataset holds now, for a schedule that watches it; it must be there in any case.

    Raises:
        SettingsError: It can't be watched.
        NotFoundError, DataError: It is not there, or can't be trained on.
    """
    named = versions.Reference.parse(spec.dataset)
    if watched and (named is None or named.version is not None) and not freshness.is_file(spec.dataset, settings):
        raise SettingsError(
            f"dataset: {spec.dataset} never changes here, so it can't be watched.",
            hint="Name a dataset without a version, or an absolute path; a remote one goes with --cron or --every.",
        )
    if named is None and not freshness.is_file(spec.dataset, settings):
        return None
    found = freshness.content(spec.dataset, tenant=spec.tenant, settings=settings, looked=looked)
    return found.plain() if watched else None


def _first(schedule: Schedule) -> datetime | None:
    rhythm = slots.rhythm_of(schedule)
    return next(iter(next_slots(rhythm, schedule.last_slot, 1)), None) if rhythm is not None else None


def _told(schedule: Schedule, recent: list[dict[str, Any]], at: datetime | None = None) -> dict[str, Any]:
    rhythm: Rhythm | None = slots.rhythm_of(schedule)
    after = schedule.last_slot if at is None else at
    ahead = next_slots(rhythm, after, UPCOMING) if rhythm is not None and not schedule.paused else []
    return {**record.shown(schedule), "upcoming": ahead, "slots": recent}
