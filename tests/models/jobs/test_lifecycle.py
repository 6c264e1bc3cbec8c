"""The bill of a stage, and the rows of an attempt from its first claim to its end."""

from datetime import UTC, datetime, timedelta

import pytest

from celora.models.jobs.lifecycle import charge, progressed
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.states import Reason, Ruling, Stage, Status
from celora.models.tables import Attempt, Job

WORKER = "cpu-0@here"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ERROR = {"code": "internal", "message": "it broke"}


def job_at(stage, ran_s):
    began = NOON - timedelta(seconds=ran_s)
    return Job(stage=stage, claimed_at=began, updated_at=NOON, train_s=0.0, gpu_seconds=0.0, cost=0.0)


@pytest.mark.parametrize(
    ("stage", "train_s", "gpu_seconds", "cost"),
    [(Stage.PREPARE, 0, 0, 0), (Stage.TRAIN, 1800, 1800, 2), (Stage.EVALUATE, 0, 1800, 2), (Stage.PUBLISH, 0, 0, 0)],
)
def test_a_stage_on_a_gpu_is_charged_by_the_hour(stage, train_s, gpu_seconds, cost):
    job = job_at(stage, 1800)
    assert charge(job, 4.0) == 1800
    assert (job.train_s, job.gpu_seconds, job.cost) == (train_s, gpu_seconds, cost)


@pytest.mark.parametrize(
    ("reported_s", "charged_s"), [(450.0, 450.0), (0.0, 0.0), (5000.0, 1800.0), (-1.0, 0.0), (None, 1800.0)]
)
def test_a_stage_that_shares_its_device_is_charged_its_share(reported_s, charged_s):
    job = job_at(Stage.TRAIN, 1800)
    job.progress = {"loss": 1.0, "device_s": reported_s}
    assert charge(job, 4.0) == 1800
    assert (job.train_s, job.gpu_seconds, job.cost) == (1800, charged_s, charged_s * 4 / 3600)


def test_the_share_of_a_stage_is_not_that_of_the_next(record):
    record.bring(Status.RUNNING, Stage.TRAIN)
    claim = Claim("job", 1, WORKER)
    record.record_progress(claim, {"step": 3, "loss": 1.0, "device_s": 0.0})
    record.advance(claim, Stage.TRAIN, {})
    assert record.job("job").gpu_seconds == 0.0
    record.claim("job", 1, Stage.EVALUATE, worker_id=WORKER, lease_s=90)
    assert record.job("job").progress == {"loss": 1.0}


def test_a_lost_worker_is_charged_to_the_end_of_its_lease():
    assert charge(job_at(Stage.TRAIN, 600), 0.0, until=NOON - timedelta(seconds=500)) == 100
    assert charge(job_at(Stage.TRAIN, 600), 0.0, until=NOON + timedelta(seconds=500)) == 600


def test_a_lease_that_ended_before_the_claim_costs_nothing():
    assert charge(job_at(Stage.TRAIN, 10), 1.0, until=NOON - timedelta(seconds=60)) == 0


def attempt(record, number):
    with record.database.session(Scope.everything) as session:
        return session.get_one(Attempt, ("job", number))


def test_an_attempt_is_one_row_over_its_stages(record):
    record.bring(Status.RUNNING, Stage.PREPARE)
    first = attempt(record, 1)
    assert (first.stage, first.ended_at, first.outcome) == (Stage.PREPARE, None, None)
    record.advance(Claim("job", 1, WORKER), Stage.PREPARE, {})
    record.send("job", 1, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
    record.claim("job", 1, Stage.TRAIN, worker_id=WORKER, lease_s=90)
    assert (attempt(record, 1).stage, attempt(record, 1).started_at) == (Stage.TRAIN, first.started_at)


def test_an_attempt_says_how_it_ended_and_the_next_begins_afresh(record):
    record.bring(Status.RUNNING, Stage.TRAIN)
    record.try_again(Claim("job", 1, WORKER), ERROR, Ruling(again=True))
    assert (attempt(record, 1).outcome, attempt(record, 1).error) == ("failed", ERROR)
    job = record.job()
    assert (job.attempt, job.status, job.reason, job.recovered) == (2, Status.PENDING, Reason.RETRYING, True)


def test_only_a_checkpoint_beyond_the_resume_point_is_progress(record):
    facts = {"uri": "u", "size_bytes": 1, "manifest_sha256": "0" * 64}
    record.bring(Status.RUNNING, Stage.TRAIN)

    def has_progressed():
        with record.database.session(Scope.everything) as session:
            return progressed(session, session.get_one(Job, "job"))

    assert not has_progressed()
    record.record_checkpoint(Claim("job", 1, WORKER), step=10, **facts)
    assert has_progressed()
    record.release(Claim("job", 1, WORKER), Reason.PREEMPTED)
    record.send("job", 2, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
    assert record.claim("job", 2, Stage.TRAIN, worker_id=WORKER, lease_s=90).resume_step == 10
    assert not has_progressed()
