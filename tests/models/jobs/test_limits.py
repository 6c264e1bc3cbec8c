"""A running job that reaches its budget or its tenant's limit pauses, and goes on when there is room again."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from celora.errors import SettingsError
from celora.models.jobs.limits import limit_waiting
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Reason, Stage, Status
from celora.models.tables import Event, Hold, Job, LedgerMonth
from celora.models.tenants.limits import set_limits

WORKER = "cpu-0@here"
CLAIM = Claim("job", 1, WORKER, 3600.0)
"""A dollar a second."""
SPEC = {"base_model": "tiny", "dataset": "/data/rows.jsonl", "tenant": "acme"}


@pytest.fixture
def training(record):
    """A job that trains since 100 seconds, and so has cost 100."""

    def start(**fields):
        record.submit(job_id="job", spec=parse_spec(SPEC | fields))
        record.send("job", 1, Stage.PREPARE, queue="prep")
        record.claim("job", 1, Stage.PREPARE, worker_id=WORKER, lease_s=90)
        record.advance(CLAIM, Stage.PREPARE, {})
        record.send("job", 1, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
        record.claim("job", 1, Stage.TRAIN, worker_id=WORKER, lease_s=90)
        change(record, lambda job: setattr(job, "claimed_at", job.claimed_at - timedelta(seconds=100)))
        return record

    return start


def change(record, do):
    with record.database.transaction(Scope.everything) as session:
        return do(session.get_one(Job, "job"))


def limits(record, **changes):
    with record.database.transaction(Scope.everything) as session:
        set_limits(session, "acme", changes)


def events(record):
    with record.database.session(Scope.everything) as session:
        return [row.kind for row in session.scalars(select(Event).order_by(Event.id))]


def test_a_job_within_its_limits_goes_on(training):
    record = training(budget=1000)
    limits(record, budget=1000)
    assert record.renew(CLAIM, 90) == "ok"
    with record.database.session(Scope.everything) as session:
        assert session.get_one(Hold, "job").held_ms >= 190_000
    assert record.renew(CLAIM, 90) == "ok"


@pytest.mark.parametrize(("fields", "tenant", "cause"), [
    ({"budget": 50}, {}, "budget"), ({}, {"budget": 50}, "limit"), ({}, {"gpu_minutes": 1}, "limit"),
    ({"budget": 0}, {}, "budget"), ({}, {"gpu_minutes": 0}, "limit"),
])  # fmt: skip
def test_a_limit_that_is_reached_pauses_the_job(training, fields, tenant, cause):
    record = training(**fields)
    limits(record, **tenant)
    assert record.renew(CLAIM, 90) == "pause"
    assert record.renew(CLAIM, 90) == "pause"
    assert events(record).count(f"{cause}_reached") == 1
    record.release(CLAIM, Reason.PREEMPTED, resume_step=3)
    job = record.job()
    assert (job.status, job.paused, job.pause_cause, job.step) == (Status.PENDING, True, cause, 3)
    with record.database.session(Scope.everything) as session:
        assert session.scalars(select(LedgerMonth)).one().held_ms == 0


def test_a_stage_without_a_device_is_not_limited(record):
    record.bring(Status.RUNNING, Stage.PREPARE)
    limits(record, gpu_minutes=0, budget=0)
    assert record.renew(CLAIM, 90) == "ok"


def test_a_cancel_comes_before_a_limit(training):
    record = training(budget=1)
    record.request_cancel("job")
    assert record.renew(CLAIM, 90) == "cancel"


def test_a_job_that_used_its_budget_goes_on_with_a_larger_one_alone(training):
    record = training(budget=50)
    record.renew(CLAIM, 90)
    record.release(CLAIM, Reason.PREEMPTED)
    with pytest.raises(SettingsError, match="has used its budget"):
        record.resume("job")
    with pytest.raises(SettingsError, match="is below"):
        record.resume("job", budget=20)
    assert record.resume("job", budget=500)
    job = record.job()
    assert (job.paused, job.pause_cause, job.limited, job.spec["budget"]) == (False, None, None, 500)


def test_the_limit_of_the_tenant_ends_the_pause_that_it_made(training):
    record = training()
    limits(record, budget=50)
    record.renew(CLAIM, 90)
    record.release(CLAIM, Reason.PREEMPTED)
    with record.database.transaction(Scope.everything) as session:
        assert limit_waiting(session, "job", {"code": "budget"}, "no room")
    assert record.job().wait_reason == "no room"
    assert not record.send("job", 2, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
    with record.database.transaction(Scope.everything) as session:
        assert limit_waiting(session, "job", None)
    job = record.job()
    assert (job.paused, job.pause_cause, job.limited, job.wait_reason) == (False, None, None, "")
    assert events(record)[-1] == "unpaused"


def test_a_persons_pause_stays_when_there_is_room(training):
    record = training()
    limits(record, budget=50)
    record.renew(CLAIM, 90)
    record.request_pause("job")
    record.release(CLAIM, Reason.PREEMPTED)
    with record.database.transaction(Scope.everything) as session:
        limit_waiting(session, "job", None)
    assert record.job().paused


def test_a_job_that_does_not_wait_is_not_limited(training):
    record = training()
    with record.database.transaction(Scope.everything) as session:
        assert not limit_waiting(session, "job", {"code": "budget"}, "no room")
