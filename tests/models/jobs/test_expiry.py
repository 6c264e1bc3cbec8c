"""A caller's ``expires`` ends a job of which nothing was trained, and no other."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text, update

from celora.models import queries
from celora.models.jobs.expiry import expire_waiting, expiry_of
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.states import Reason, Stage, Status
from celora.models.tables import Announcement, Job
from celora.models.tables.job import UNREAD

PAST, FUTURE = "2020-01-01T00:00:00+00:00", "2120-01-01T00:00:00+00:00"


def expire(record):
    with record.database.transaction(Scope.everything) as session:
        return expire_waiting(session)


def with_expiry(record, time):
    with record.database.transaction(Scope.everything) as session:
        request = {"id": "job", "expires": time}
        session.execute(update(Job).values(request=request, expires_at=expiry_of(request)))


@pytest.mark.parametrize(
    ("status", "stage"),
    [
        (Status.PENDING, Stage.PREPARE),
        (Status.QUEUED, Stage.PREPARE),
        (Status.PENDING, Stage.TRAIN),
        (Status.QUEUED, Stage.TRAIN),
    ],
)
def test_a_job_that_waits_for_its_training_ends_when_its_time_has_passed(record, legal_history, status, stage):
    record.bring(status, stage)
    with_expiry(record, FUTURE)
    assert expire(record) == []
    with_expiry(record, PAST)
    assert expire(record) == ["job"]
    job = record.job()
    assert (job.status, job.request["expired"]) == (Status.CANCELLED, True)
    with record.database.session(Scope.everything) as session:
        assert session.get(Announcement, "job") is not None
        events = queries.events(session, "job")
    assert [event["kind"] for event in events][-2:] == ["expired", "cancelled"]
    assert legal_history(events) == []
    assert expire(record) == []


@pytest.mark.parametrize(
    ("status", "stage"),
    [
        (Status.RUNNING, Stage.PREPARE),
        (Status.RUNNING, Stage.TRAIN),
        (Status.QUEUED, Stage.EVALUATE),
        (Status.COMPLETED, Stage.PUBLISH),
    ],
)
def test_a_job_that_runs_or_was_trained_stays(record, status, stage):
    record.bring(status, stage)
    with_expiry(record, PAST)
    assert expire(record) == []
    assert record.job().status is status


def test_a_job_that_lost_its_place_on_a_gpu_stays(record):
    record.bring(Status.RUNNING, Stage.TRAIN)
    with record.database.transaction(Scope.everything) as session:
        session.execute(update(Job).values(claimed_at=Job.claimed_at, gpu_seconds=3.0))
    record.release(Claim("job", 1, record.job().worker_id), Reason.PREEMPTED)
    with_expiry(record, PAST)
    assert record.job().status is Status.PENDING
    assert expire(record) == []


def test_a_job_without_a_caller_or_a_time_stays(record):
    record.bring(Status.PENDING)
    assert expire(record) == []
    with_expiry(record, None)
    assert expire(record) == []


def test_a_time_without_a_zone_is_utc():
    assert expiry_of({"expires": "2026-11-30T08:00:00"}) == datetime(2026, 11, 30, 8, tzinfo=UTC)
    assert expiry_of({"expires": "2026-11-30T10:00:00+02:00"}) - datetime(2026, 11, 30, 8, tzinfo=UTC) == timedelta()
    assert expiry_of(None) is None


@pytest.mark.parametrize(("time", "left"), [(PAST, Status.CANCELLED), (FUTURE, Status.PENDING), (None, Status.PENDING)])
def test_the_time_in_a_row_of_a_program_that_does_not_know_the_column_is_read(record, time, left):
    record.bring(Status.PENDING, Stage.PREPARE)
    with record.database.transaction(Scope.everything) as session:
        session.execute(update(Job).values(request={"id": "job", "expires": time}, expires_at=text(f"'{UNREAD}'")))
    expire(record)
    assert record.job().status is left
    assert record.job().expires_at == (None if left is Status.CANCELLED else expiry_of({"expires": time}))
