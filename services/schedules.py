"""Adds, shows, pauses, runs and removes schedules: ``from celora.services import schedules``.

    schedules.add("weekly", spec, cron="0 3 * * 1", timezone="Europe/Berlin")
    schedules.add("often", spec, every="6h", overlap="queue")
    schedules.add("grown", spec | {"dataset": "support-faq"}, when_new_rows=500)
    schedules.show("weekly")["upcoming"]

The record is the truth: no function here needs a broker or a worker. ``add`` refuses every error that its runs would
meet: a wrong spec, a line that never fires, a dataset that does not exist.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from ..errors import SettingsError, did_you_mean
from ..models import datasets as versions
from ..models import schedules as record
from ..models.database import get_database, now
from ..models.queries import get_tenant
from ..models.scope.scope import Scope
from ..models.spec import JobSpec, known_fields, parse_spec
from ..models.tables.schedule import Schedule, ScheduleRun
from ..models.tables.types import JsonObject
from ..models.tenants.audit import current_actor, record_audit
from ..scheduling.cron import Rhythm, check_cron, next_times, parse_every, zone
from ..scheduling.due import Missed, Overlap
from ..settings.settings import Settings, get_settings
from ..workers.messages import request_tick
from . import data_changes, schedule_runs
from .job_checks import absolute_base, check_spec, check_tenant, owned_by, place_datasets
from .jobs import new_job_id

__all__ = ["add", "listed", "pause", "remove", "resume", "run_now", "show"]

UPCOMING = 5
"""Coming runs that ``show`` lists."""

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
    scope: Scope = Scope.everything,
) -> dict[str, Any]:
    """Write a schedule into the record; its first run is at its first time after now.

    Args:
        name: Name of the schedule; its tenant is the spec's.
        spec: The job's fields. A dataset is NAME (its newest version at each run), NAME@VERSION, an absolute path
            (read again when it changed), or a URL. Held-out rows that are a file become a version now, and stay.
        cron: Five fields: minute, hour, day of the month, month, day of the week.
        timezone: The time zone of the line; UTC unless given.
        every: An interval: ``90s``, ``30m``, ``6h``, ``1d12h``, ``2w``.
        when_new_rows: Train when the dataset has at least so many rows that the last training did not see.
        when_data_changed: Train when the content of the dataset differs from that of the last run.
        missed: ``run-once`` or ``skip``: the rule for runs that no round looked for in time.
        overlap: ``skip``, ``queue`` or ``replace``: the rule for a run that is due before the last job has ended.
        scope: The caller's. In the scope of one tenant the schedule is that tenant's.

    Returns:
        As ``show``.

    Raises:
        SettingsError: A field is wrong, the line never fires, the zone is unknown, or the name is taken.
        DataError, NotFoundError, BaseModelError: A dataset or base of the spec does not exist, or is refused.
    """
    settings, name = get_settings(), _check_name(name)
    given = {"cron": cron, "every": every, "when_new_rows": when_new_rows, "when_data_changed": when_data_changed}
    when = _when({name: value for name, value in given.items() if value is not None and value is not False}, timezone)
    rules = {"missed": _one_of(Missed, "missed", missed), "overlap": _one_of(Overlap, "overlap", overlap)}
    spec = absolute_base(owned_by(scope, spec))
    checked = check_spec(spec, settings)
    looked: data_changes.Looked = {}
    fields = _fixed(spec, checked, settings)
    seen = _content(checked, settings, looked, watched="cron" not in when and "every_s" not in when)
    with get_database().transaction(Scope.of(checked.tenant)) as session:
        check_tenant(session, checked.tenant, settings)
        place_datasets(session, checked, settings)
        at = now(session)
        row = {"id": new_job_id(), "name": name, "tenant": checked.tenant, "spec": fields, **when, **rules}
        schedule = record.create(session, **row, seen=seen, looked=looked or None, created_at=at, last_slot=at)
        schedule.next_slot = _first(schedule)
        session.flush()
        _audit(session, "schedule.add", schedule, None, {**given, **rules, "spec": fields})
        return _shown(schedule, [])


def listed(tenant: str | None = None) -> list[dict[str, Any]]:
    """Return every schedule by name, each with its ``last`` run and its outcome; those of one tenant if it is named.

    Raises:
        NotFoundError: There is no such tenant.
    """
    with get_database().session(Scope.everything if tenant is None else Scope.of(tenant)) as session:
        if tenant is not None:
            get_tenant(session, tenant)
        return record.listed(session)


def show(name: str, *, tenant: str = "default", limit: int = 10) -> dict[str, Any]:
    """Return a schedule: its columns, ``upcoming`` (the next five times), ``slots`` (the last runs with outcomes).

    Raises:
        NotFoundError: There is none of that name.
    """
    with get_database().session(Scope.of(tenant)) as session:
        schedule = record.find(session, tenant, name)
        return _shown(schedule, record.recent(session, schedule.id, limit=limit), now(session))


def pause(name: str, *, tenant: str = "default") -> None:
    """Pause a schedule: it submits no jobs until it is resumed; a job that it submitted goes on.

    Raises:
        NotFoundError: There is none of that name.
    """
    with get_database().transaction(Scope.of(tenant)) as session:
        schedule = _locked(session, tenant, name)
        _audit(session, "schedule.pause", schedule, {"paused": schedule.paused}, {"paused": True})
        schedule.paused = True


def resume(name: str, *, tenant: str = "default") -> None:
    """Resume a schedule. Runs that fell into the pause are not repeated; data that changed meanwhile counts.

    Raises:
        NotFoundError: There is none of that name.
    """
    with get_database().transaction(Scope.of(tenant)) as session:
        schedule = _locked(session, tenant, name)
        _audit(session, "schedule.resume", schedule, {"paused": schedule.paused}, {"paused": False})
        if schedule.paused:
            schedule.paused, schedule.last_slot = False, now(session)
            schedule.next_slot = _first(schedule)


def run_now(name: str, *, tenant: str = "default") -> dict[str, Any]:
    """Run a schedule now, paused or not; the run waits if the schedule's last job has not ended.

    Returns:
        ``outcome`` (``submitted`` or ``waiting``), ``job_id`` and ``message`` of the run.

    Raises:
        NotFoundError: There is no schedule, or no dataset, of that name.
        CeloraError: A dataset or base of the spec is refused now; nothing was written.
    """
    settings, database = get_settings(), get_database()
    with database.session(Scope.of(tenant)) as session:
        schedule = record.find(session, tenant, name)
    looked = dict(schedule.looked or {})
    fields = known_fields(data_changes.with_version(schedule.spec, settings, looked))
    seen = _content(parse_spec(fields), settings, looked, watched=schedule.seen is not None)
    check_spec(fields, settings)
    with database.transaction(Scope.of(tenant)) as session:
        locked = _locked(session, tenant, name)
        at = now(session)
        locked.looked, locked.seen = looked or None, seen
        key = f"now-{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03d}Z"
        run = schedule_runs.start_run(
            session, locked, key, settings=settings, at=at, order=fields, overlap=Overlap.QUEUE
        )
        answer = _answer(locked, run)
        _audit(session, "schedule.run", locked, None, {"job": answer.get("job_id"), "outcome": answer.get("outcome")})
    request_tick()
    return answer


def remove(name: str, *, tenant: str = "default") -> None:
    """Remove a schedule with its runs; its jobs and adapters stay.

    Raises:
        NotFoundError: There is none of that name.
    """
    with get_database().transaction(Scope.of(tenant)) as session:
        schedule = _locked(session, tenant, name)
        _audit(session, "schedule.remove", schedule, {"spec": schedule.spec, "paused": schedule.paused}, None)
        session.delete(schedule)


def _audit(
    session: Session, action: str, schedule: Schedule, before: JsonObject | None, after: JsonObject | None
) -> None:
    record_audit(session, current_actor(), action, schedule.name, before, after, tenant=schedule.tenant)


def _answer(schedule: Schedule, run: ScheduleRun | None) -> dict[str, Any]:
    if run is None:
        raise SettingsError(
            "it was run this very moment.",
            hint=f"See `celora schedule show {schedule.name} --tenant {schedule.tenant}`.",
        )
    message = run.message
    if run.outcome == record.WAITING:
        message = f"it waits {run.message}"
        message += f", and for `celora schedule resume {schedule.name}`" if schedule.paused else ""
    return {"outcome": run.outcome, "job_id": run.job_id, "message": message}


def _locked(session: Any, tenant: str, name: str) -> Schedule:
    schedule = record.lock(session, record.find(session, tenant, name).id)
    return schedule if schedule is not None else record.find(session, tenant, name)


def _when(given: dict[str, Any], timezone: str | None) -> dict[str, Any]:
    """Build the trigger columns from the one trigger that was given."""
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
    raise SettingsError(f"{name}: {given!r} is none of {', '.join(known)}" + did_you_mean(words, known))


def _check_name(name: str) -> str:
    if not versions.NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} cannot be a schedule's name.",
            hint="Use 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit.",
        )
    return name


def _fixed(spec: Mapping[str, Any], checked: JobSpec, settings: Settings) -> dict[str, Any]:
    """Build the spec as the record keeps it: the given fields, typed; a file of held-out rows becomes a version."""
    kept = parse_spec(dict(spec)).model_dump(mode="json", exclude_unset=True)

    def fixed(source: str) -> str:
        if not data_changes.is_file(source, settings):
            return source
        return data_changes.content(source, tenant=checked.tenant, settings=settings, looked={}).reference

    held_out = kept.get("eval_dataset")
    if isinstance(held_out, str):
        kept["eval_dataset"] = fixed(held_out)
    elif held_out:
        kept["eval_dataset"] = {name: fixed(source) for name, source in held_out.items()}
    if checked.gate is not None and checked.gate.must_pass:
        kept["gate"]["must_pass"] = fixed(checked.gate.must_pass)
    return kept


def _content(spec: JobSpec, settings: Settings, looked: data_changes.Looked, *, watched: bool) -> dict[str, str] | None:
    """Return the present content of a schedule's dataset where the schedule watches it; check that the dataset exists.

    Raises:
        SettingsError: The dataset can't be watched.
        NotFoundError, DataError: The dataset does not exist, or can't be trained on.
    """
    named = versions.Reference.parse(spec.dataset)
    if watched and (named is None or named.version is not None) and not data_changes.is_file(spec.dataset, settings):
        raise SettingsError(
            f"dataset: {spec.dataset} never changes here, so it can't be watched.",
            hint="Name a dataset without a version, or an absolute path; a remote one goes with --cron or --every.",
        )
    if named is None and not data_changes.is_file(spec.dataset, settings):
        return None
    found = data_changes.content(spec.dataset, tenant=spec.tenant, settings=settings, looked=looked)
    return found.plain() if watched else None


def rhythm_of(schedule: Schedule) -> Rhythm | None:
    """Return the rhythm by which a schedule is due; None for one that watches data."""
    if schedule.cron is None and schedule.every_s is None:
        return None
    anchor = schedule.created_at.replace(microsecond=0)
    return Rhythm(cron=schedule.cron, timezone=schedule.timezone, every_s=schedule.every_s, anchor=anchor)


def _first(schedule: Schedule) -> datetime | None:
    rhythm = rhythm_of(schedule)
    return next(iter(next_times(rhythm, schedule.last_slot, 1)), None) if rhythm is not None else None


def _shown(schedule: Schedule, recent: list[dict[str, Any]], at: datetime | None = None) -> dict[str, Any]:
    rhythm: Rhythm | None = rhythm_of(schedule)
    after = schedule.last_slot if at is None else at
    ahead = next_times(rhythm, after, UPCOMING) if rhythm is not None and not schedule.paused else []
    return {**record.shown(schedule), "upcoming": ahead, "slots": recent}
