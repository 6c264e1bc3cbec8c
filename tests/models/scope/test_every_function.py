"""Every function of the record, called in the session of one tenant with the ids of another.

The functions are found by their signature, so a new one is tested without an entry here; a parameter of a new name
fails until ``values`` gives it a value. Three statements hold of each function:

* With the ids of another tenant it does exactly what it does with ids that nobody has (``TAKEN`` lists the exceptions).
* Nothing that it returns or says holds a word of another tenant.
* It changes no row of another tenant.

A function that a tenant's session refuses altogether is the operator's, and stands in ``OPERATORS``.
"""

import contextlib
import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import Session
from two_tenants import AT, LIMITED, OURS, THEIRS, owner_of

import celora.models
from celora.errors import CeloraError
from celora.models import queries
from celora.models.database import now
from celora.models.jobs.requests import JobChanges
from celora.models.jobs.status import Cause
from celora.models.notifications.deliveries import Try
from celora.models.notifications.notices import Notice
from celora.models.notifications.receivers import NewReceiver
from celora.models.rows import Claim
from celora.models.scope.scope import Scope, ScopeError
from celora.models.spec import parse_spec
from celora.models.states import Reason, Ruling, Stage, Status
from celora.models.tables import Champion, ChampionEvent, Dataset, Event, Hold, Job, LedgerMonth, Receiver, Table
from celora.models.tenants.audit import Actor
from celora.models.tenants.limits import Limits
from celora.models.tenants.use import Use

NOBODY = "team-c"
"""As long as the names of the others."""

OTHER_ROOMS = ("migrations", "scope", "tables")
"""Districts of ``models/`` without a function for tenants."""

REFUSED = "refused by the scope"
OPERATORS = {
    "jobs.failures.memory_of", "jobs.failures.safe_batch", "jobs.future_times.correct_future_times",
    "jobs.metrics.reaper_age_s", "jobs.metrics.unfinished",
    "jobs.metrics.workers", "jobs.progress.explain_waits", "jobs.reaper_watch.watch", "jobs.retention.forget_workers",
    "jobs.retention.queues_of_gone_workers",
    "jobs.transitions.advance", "queries.queues", "queries.workers", "queue.waiting.count_by_queue",
    "queue.waiting.lanes", "queue.groups.all_heads", "queue.groups.count_groups", "queue.metrics.waiting_ages",
    "workers.cordon", "workers.count_device_fault",
    "workers.drain", "workers.mark_offline", "workers.mark_silent_workers_offline", "workers.common_workers",
    "workers.other_workers", "workers.queues_that_are_read", "workers.record_heartbeat",
    "workers.register", "workers.request_drain", "workers.reset_device_faults", "workers.uncordon",
    "workers.clear_host_restart", "workers.record_resident", "workers.request_host_restart", "workers.warm_workers",
}  # fmt: skip
"""Functions that read or write a table of the operator, or use the raw connection."""

TAKEN = {
    "jobs.accept.submit": "an id is unique in the installation: a taken one is refused, whoever has it",
    "jobs.accept.reject": "the same",
}
"""Functions that tell a taken id from a free one, and the reason."""


def functions():
    """Every public function of the record that takes a session, by its dotted name below ``models``."""
    found = {}
    for module in pkgutil.walk_packages(celora.models.__path__, "celora.models."):
        below = module.name.removeprefix("celora.models.")
        if below.split(".")[0] in OTHER_ROOMS:
            continue
        for name, function in vars(importlib.import_module(module.name)).items():
            own = inspect.isfunction(function) and function.__module__ == module.name and not name.startswith("_")
            if own and "session" in inspect.signature(function).parameters:
                found[f"{below}.{name}"] = function
    return found


@lru_cache
def values(who):
    """The value of each parameter, by its name; ids are those of one tenant, or of nobody."""
    number = (OURS, THEIRS, NOBODY).index(who) + 1
    job = f"job-{who}"
    return {
        "body_sha256": "4" * 64, "job_ids": [job], "labels": None,
        "aged_before": AT, "gpu_seconds": 1.0, "jobs": [], "most": 9, "wanted": {}, "foreign_limit_bytes": 0,
        "action": "job.cancel", "actor": Actor("ada"), "after": job, "after_id": 0, "ahead": Use(1, 1), "ahead_s": 9.0,
        "at": AT, "attempt": 2, "base": None, "basis": "bytes", "before": AT + timedelta(days=900), "before_id": None,
        "began": AT, "ended": AT + timedelta(seconds=9), "by": "ada", "cause": Cause("note", "a note"),
        "challenge": {"name": "bot", "expected": 1, "promote": True, "reason": "better", "against": job},
        "changes": {}, "choice": 0, "claim": Claim(job, 2, "w"), "claim_s": 0.0,
        "error": {"code": "internal", "message": "a fault"}, "event_id": number, "expected": 1,
        "facts": {"filename": "f", "purpose": "fine-tune", "size_bytes": 1, "sha256": "1" * 64, "uri": "d"},
        "fault": None, "field": "continue_from", "fields": {"tenant": who}, "file_id": f"file-{who}",
        "filename": "rows.jsonl", "first": (job, "a"), "for_job": "urgent", "for_s": 9.0, "half_life_s": 60.0,
        "job_changes": JobChanges(priority=1),
        "gpu_type": "cpu", "held_out": "eval", "job_id": job, "keep": 1, "key": "k2", "key_id": f"key-{who}",
        "key_ids": [f"key-{who}"],
        "kind": "promoted", "lapse_s": 9.0, "lease_s": 9.0, "level": "info", "limit": 9, "limited": None,
        "limits": Limits(), "max_length_tokens": 64, "manifest_sha256": "0" * 64, "max_attempts": 3, "max_length": 64,
        "measured": {"dtype": "float16", "metrics": {}, "warnings": [], "uri": "e"}, "message": "a note",
        "name": "bot", "new_id": "a-new-job", "now": None, "order": "asc", "outcome": "submitted",
        "points": [{"step": 4}], "price_per_hour": 1.0, "prompt": "p", "publication": 1, "purpose": None,
        "queue": "gpu.cpu", "reason": Reason.NONE, "reference": "rows", "request": {"id": job}, "resend_s": 9.0,
        "resident": None,
        "rival": job, "rows": 1, "ruling": Ruling(again=False, reason=Reason.NONE), "running": Use(1, 1),
        "schedule_id": f"s-{who}", "second": ("base", "b"), "sha256": "1" * 64, "silent_s": 9.0, "size_bytes": 1,
        "spec": parse_spec({"base_model": "tiny", "dataset": "rows", "tenant": who}), "stage": "train",
        "status": Status.FAILED, "step": 9, "table": Event, "target": job, "tenant": who, "to": Status.FAILED,
        "part": {"id": "part_new", "size_bytes": 0, "uri": "p"}, "part_ids": [f"part-{who}"],
        "upload_id": f"upload-{who}",
        "delivery_id": 900_000 + number, "notice": Notice.DONE, "receiver_id": f"r-{who}", "result": Try(fault="away"),
        "subject": job,
        "receiver": NewReceiver(id="r-new", kind="webhook", name="n", url="u", notices=[Notice.DONE], sealed="s"),
        "check_id": f"check-{who}", "file_names": {},
        "uri": "d", "use": Use(1, 1), "values": {}, "versions": {"eval": Dataset(id=number, tenant=who)},
        "waits": {job: "busy"}, "why": "busy", "words": job, "worker_id": "w",
    }  # fmt: skip


OVERRIDES = {
    "queue.groups.count_groups": {"reference": None},
    "queue.history.factors": {"base": {"model_type": "llama", "parameters": 8 * 10**9}},
    "datasets.listed": {"name": "rows"},
    "datasets.register": {"name": "rows"},
    "queries.tenants_with": {"name": "rows"},
    "queue.lane_reasons.record_lanes": {"waits": {}},
    "tenants.audit.record_audit": {"before": None, "after": None},
    "openai.uploads.add_upload": {
        "upload_id": "upload-new",
        "facts": {"filename": "f", "purpose": "fine-tune", "size_bytes": 1},
    },
    "openai.data_checks.add_check": {"check_id": "check-new", "spec": {}},
    "openai.data_checks.end_check": {"result": {"receipt": {}}},
    "openai.uploads.end_upload": {"status": "cancelled"},
    "openai.pages.page_by_age": {"table": Job, "wanted": select(Job)},
    "openai.files.add": {"file_id": "file-new", "status": "uploaded"},
    "schedules.find": {"name": "weekly"},
    "notifications.notices.add_delivery": {"event_id": "evt_2"},
    "notifications.receivers.list_receivers": {"kind": "webhook"},
    "jobs.reaper_watch.watch": {"name": "reaper"},
}
"""Values of a parameter whose name means something else in one function."""


def arguments(name, function, who, rows):
    """The keyword arguments of a call."""
    known = dict(values(who)) | OVERRIDES.get(name, {})
    if name in ("queries.get_tenant", "tenants.deletion.lock_tenant", "tenants.limits.add_tenant"):
        known["name"] = who
    known |= rows
    if name == "jobs.transitions.release" or name.startswith("jobs.lifecycle."):
        known["reason"] = Reason.NONE
    elif name.startswith("champions."):
        known["reason"] = "better"
    given = {}
    for parameter in list(inspect.signature(function).parameters.values()):
        if parameter.name == "session" or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= {"schedules.create": schedule(who), "workers.register": {"host": "h"}}[name]
        elif parameter.name in known:
            given[parameter.name] = known[parameter.name]
        elif parameter.default is parameter.empty:
            pytest.fail(f"values() has no value for the parameter {parameter.name} of models.{name}")
    return given


def schedule(who):
    return {"id": "s-new", "tenant": who, "name": "nightly", "cron": "0 3 * * 1", "spec": {}, "missed": "run_once",
            "overlap": "skip"}  # fmt: skip


def rows_for(session, function, who):
    """The rows that a function takes, as the session shows them."""
    keys = {
        Job: f"job-{who}",
        Champion: (who, "bot"),
        Dataset: (OURS, THEIRS, NOBODY).index(who) + 1,
        Hold: f"job-{who}",
        LedgerMonth: (who, "2026-11"),
        Receiver: f"r-{who}",
    }
    wanted = {each.name: each.annotation for each in inspect.signature(function).parameters.values()}
    return {name: session.get(table, keys[table]) for name, table in wanted.items() if table in keys}


class UndoError(Exception):
    """Rolls a session back."""


@dataclasses.dataclass
class Called:
    """The result of a call in plain data, the tenants of the rows that it returned, and the other tenant's rows."""

    result: object
    owners: set
    theirs: dict


def call(database, name, function, who):
    """Call a function in a session of our tenant with the ids of ``who``, look at the effect, and undo it."""
    with contextlib.suppress(UndoError), database.session(Scope.of(OURS)) as session:
        owners = set()
        result = result_of(session, name, function, who, owners)
        called = Called(result, owners, rows_of_them(session) if who != NOBODY else {})
        raise UndoError
    return called


def result_of(session, name, function, who, owners):
    """The result of a call, or its error."""
    rows = rows_for(session, function, who)
    if None in rows.values():
        return "the session shows no such row, so nobody can call the function with it"
    try:
        returned = function(session, **arguments(name, function, who, rows))
        result = plain(list(returned) if isinstance(returned, Iterable | Mapping) else returned, owners)
        session.flush()
    except ScopeError:
        return REFUSED
    except (CeloraError, NoResultFound) as error:
        return f"{type(error).__name__}: {error}"
    return result


def rows_of_them(session):
    """The other tenant's rows of each table, read past the scope in the same transaction."""
    session.expunge_all()  # rows that the scope refused to write
    connection = Session.connection(session)
    found = {}
    for table in LIMITED:
        core = table.__table__
        found[table.__name__] = sorted(str(row) for row in connection.execute(core.select()) if THEIRS in str(row))
    return found


def plain(value, owners):
    """A result as plain data: rows as their columns; times are left out, since each call has its own."""
    if isinstance(value, Table):
        if type(value) in LIMITED:
            owners.add(owner_of(value))
        names = value.__mapper__.column_attrs.keys()
        return (type(value).__name__, {name: plain(getattr(value, name), owners) for name in names})
    if isinstance(value, datetime):
        return "<time>"
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name), owners) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each, owners) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each, owners) for each in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return str(value)


def leaks(database, name, function, before):
    """Every way in which a function tells of another tenant or changes its rows; none is expected."""
    ours, theirs, nobodys = (call(database, name, function, who) for who in (OURS, THEIRS, NOBODY))
    if THEIRS in str(ours.result) or ours.owners - {OURS}:
        yield f"{name} returns another tenant's: {ours.result}"
    if theirs.owners - {OURS}:
        yield f"{name} returns rows of {theirs.owners}"
    if str(theirs.result).replace(THEIRS, NOBODY) != str(nobodys.result) and name not in TAKEN:
        yield f"{name} tells another's id ({theirs.result}) from no id ({nobodys.result})"
    if before != ours.theirs or before != theirs.theirs:
        yield f"{name} changes rows of another tenant"
    if (ours.result == REFUSED) != (name in OPERATORS):
        yield f"{name} {'is refused' if ours.result == REFUSED else 'is not refused'} in a tenant's session"


@pytest.fixture
def running(two):
    """A running job of each tenant, and the ids of ``values``."""
    with two.session(Scope.everything) as session:
        for job in session.scalars(select(Job)):
            job.status, job.stage, job.attempt, job.worker_id = Status.RUNNING, Stage.TRAIN, 2, "w"
            job.lease_until = now(session) + timedelta(hours=1)
        ids = session.scalars(select(ChampionEvent.id).order_by(ChampionEvent.id)).all()
        for number, row in enumerate(ids, start=1):
            if row != number:  # a serial goes on where an earlier test ended
                new_id = text("UPDATE champion_event SET id = :new WHERE id = :old")
                session.execute(new_id, {"new": number, "old": row})
    return two


def untouched(database):
    """The other tenant's rows before any call."""
    with database.session(Scope.of(OURS)) as session:
        return rows_of_them(session)


def test_no_function_of_the_record_shows_or_changes_another_tenants_rows(running):
    before = untouched(running)
    assert [leak for name, function in functions().items() for leak in leaks(running, name, function, before)] == []


def on_the_core_table(session, job_id):
    """A read that names the table without its class."""
    return list(session.execute(select(Job.__table__).where(Job.__table__.c.id == job_id)))


def as_text(session, job_id):
    """A read in plain SQL."""
    return list(session.execute(text("SELECT id FROM job WHERE id = :job_id"), {"job_id": job_id}))


def a_foreign_row(session, job_id):
    """A write below another tenant's job."""
    session.add(Event(job_id=job_id, attempt=1, at=AT, level="info", kind="note", message="planted"))
    session.flush()


def test_a_planted_leak_is_found(running):
    def past_the_scope(session, job_id):
        """A read that forgets the scope."""
        with running.session(Scope.everything) as other:
            return list(other.scalars(select(Event.message).where(Event.job_id == job_id)))

    assert any("tells another's id" in leak for leak in leaks(running, "planted", past_the_scope, untouched(running)))
    for planted in (on_the_core_table, as_text):
        assert call(running, "planted", planted, OURS).result == REFUSED
    assert call(running, "planted", a_foreign_row, OURS).result == "None"
    assert call(running, "planted", a_foreign_row, THEIRS).result == REFUSED


def test_a_chain_of_retries_ends_at_another_tenants_job(two):
    for scope in (Scope.everything, Scope.of(OURS)):
        with two.session(Scope.everything) as session:
            session.get_one(Job, f"job-{OURS}").resume_of = f"job-{THEIRS}"
        with two.session(scope) as session:
            job = session.get_one(Job, f"job-{OURS}")
            job.attempt = 2
            assert queries.ancestors(session, job) == []
            assert [row.job_id for row in queries.resume_candidates(session, job.id)] == [job.id]
