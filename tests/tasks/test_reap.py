"""The reaper takes a job only while the record could be reached: after an outage it waits a whole lease."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from celora.models import transitions
from celora.models.database import get_database
from celora.models.spec import parse_spec
from celora.models.states import Stage, Status
from celora.models.tables import Beacon, Job
from celora.tasks import reap as module


@pytest.fixture
def record(home, monkeypatch):
    monkeypatch.setattr(module, "poke", lambda: None)
    database = get_database()
    database.migrate()
    with database.transaction() as session:
        transitions.submit(session, job_id="j", spec=parse_spec({"base_model": "b", "dataset": "/d.jsonl"}))
        transitions.send(session, "j", 1, Stage.PREPARE, queue="prep")
        transitions.claim(session, "j", 1, Stage.PREPARE, worker_id="prep@here", lease_s=90)
    return database


def passes(database, seconds, *, looked=True):
    """Time goes by: the lease and the beacon's row move into the past."""
    by = timedelta(seconds=seconds)
    with database.transaction() as session:
        job = session.get_one(Job, "j")
        if job.lease_until is not None:
            session.execute(update(Job).values(lease_until=job.lease_until - by))
        row = session.get(Beacon, "reaper")
        if row is not None:
            session.execute(
                update(Beacon).values(since=row.since - by, seen_at=row.seen_at - (by if not looked else by * 0))
            )


def status(database):
    module.reap()
    with database.session() as session:
        return session.get_one(Job, "j").status


def test_a_lease_that_ran_out_under_our_eyes_is_taken(record):
    assert status(record) is Status.RUNNING
    passes(record, 91)
    assert status(record) is Status.PENDING


def test_after_an_outage_the_leases_get_their_full_time(record):
    module.reap()
    passes(record, 300, looked=False)
    assert status(record) is Status.RUNNING, "the first look after the outage takes nothing"
    passes(record, 80)
    assert status(record) is Status.RUNNING
    passes(record, 11)
    assert status(record) is Status.PENDING


def test_a_worker_that_renews_after_the_outage_keeps_its_job(record):
    module.reap()
    passes(record, 300, looked=False)
    module.reap()
    with record.transaction() as session:
        assert transitions.renew(session, "j", 1, "prep@here", 90) == "ok"
    passes(record, 89)
    assert status(record) is Status.RUNNING
