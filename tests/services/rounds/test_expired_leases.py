"""The reaper takes a job only while the record could be reached: after an outage it waits a whole lease."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from celora.models.database import get_database
from celora.models.jobs import accept, transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage, Status
from celora.models.tables import Beacon, Job
from celora.services.rounds import expired_leases as module
from celora.settings.settings import get_settings


@pytest.fixture
def record(home, monkeypatch):
    monkeypatch.setattr(module, "request_tick", lambda: None)
    database = get_database()
    database.migrate()
    with database.transaction(Scope.everything) as session:
        accept.submit(session, job_id="j", spec=parse_spec({"base_model": "b", "dataset": "/d.jsonl"}))
        transitions.send(session, "j", 1, Stage.PREPARE, queue="prep")
        transitions.claim(session, "j", 1, Stage.PREPARE, worker_id="prep@here", lease_s=90)
    return database


def passes(database, seconds, *, looked=True):
    """Time goes by: the lease and the beacon's row move into the past."""
    by = timedelta(seconds=seconds)
    with database.transaction(Scope.everything) as session:
        job = session.get_one(Job, "j")
        if job.lease_until is not None:
            session.execute(update(Job).values(lease_until=job.lease_until - by))
        row = session.get(Beacon, "reaper")
        if row is not None:
            session.execute(
                update(Beacon).values(since=row.since - by, seen_at=row.seen_at - (by if not looked else by * 0))
            )


def look():
    module.take_back_expired(get_database(), get_settings())


def status(database):
    look()
    with database.session(Scope.everything) as session:
        return session.get_one(Job, "j").status


def test_a_lease_that_ran_out_under_our_eyes_is_taken(record):
    assert status(record) is Status.RUNNING
    passes(record, 91)
    assert status(record) is Status.PENDING


def test_after_an_outage_the_leases_get_their_full_time(record):
    look()
    passes(record, 300, looked=False)
    assert status(record) is Status.RUNNING, "the first look after the outage takes nothing"
    passes(record, 80)
    assert status(record) is Status.RUNNING
    passes(record, 11)
    assert status(record) is Status.PENDING


def test_a_worker_that_renews_after_the_outage_keeps_its_job(record):
    look()
    passes(record, 300, looked=False)
    look()
    with record.transaction(Scope.everything) as session:
        assert transitions.renew(session, Claim("j", 1, "prep@here"), 90) == "ok"
    passes(record, 89)
    assert status(record) is Status.RUNNING


def test_a_lost_worker_is_noticed_within_two_leases_of_a_clock_that_was_a_day_ahead(record):
    look()
    passes(record, -86400, looked=False)
    assert status(record) is Status.RUNNING, "the clock was set back just now: a whole lease for everybody"
    passes(record, 89)
    assert status(record) is Status.RUNNING
    passes(record, 20)
    assert status(record) is Status.PENDING
