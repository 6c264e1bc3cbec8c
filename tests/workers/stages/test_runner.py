"""A message claims its stage once, and every end of the work has one ending in the record."""

import pytest
from celery.exceptions import Ignore

from celora.errors import DataError
from celora.models.jobs import requests, transitions
from celora.models.rows import Claim
from celora.models.spec import parse_spec
from celora.models.states import Reason, Stage, Status
from celora.models.tables import Job
from celora.settings.settings import load_settings
from celora.workers.stages.outcomes import finish
from celora.workers.stages.runner import claimed, limits_of, reopened
from celora.workers.trainer.supervisor import Cancelled, Drained, Lost


def test_a_stage_that_is_finished_moves_its_job_on(installation):
    with installation.claimed(Stage.PREPARE) as stage:
        assert installation.job().status is Status.RUNNING
        finish(stage, {"memory_bytes": 7})
    job = installation.job()
    assert (job.status, job.stage, job.memory_bytes) == (Status.PENDING, Stage.TRAIN, 7)


@pytest.mark.parametrize(("stage", "attempt"), [(Stage.TRAIN, 1), (Stage.PREPARE, 2)])
def test_a_stale_message_does_nothing_and_cuts_its_chain(installation, stage, attempt):
    installation.send(Stage.PREPARE)
    request = installation.request(stage)
    with pytest.raises(Ignore), claimed(request, stage, "j", attempt):
        pytest.fail("a stale message was carried")
    assert request.chain is None
    assert installation.job().status is Status.QUEUED


def test_a_message_that_comes_twice_is_carried_once(installation):
    with installation.claimed(Stage.PREPARE) as stage:
        with pytest.raises(Ignore), claimed(installation.request(Stage.PREPARE), Stage.PREPARE, "j", 1):
            pytest.fail("the second message was carried")
        finish(stage, {})


def test_a_message_that_was_forged_into_another_queue_starts_nothing(installation, register_worker):
    request = installation.send(Stage.TRAIN)
    for queues in (["celora"], ["prep"]):
        register_worker(queues=queues)
        with pytest.raises(Ignore), claimed(request, Stage.TRAIN, "j", 1):
            pytest.fail("a stage of another queue was carried")
    register_worker(queues=["celora"], cordoned=True)
    with pytest.raises(Ignore), claimed(request, Stage.TRAIN, "j", 1):
        pytest.fail("a stage of another queue was carried")
    assert installation.job().status is Status.QUEUED
    register_worker(queues=["q"], cordoned=False)
    with claimed(request, Stage.TRAIN, "j", 1) as stage:
        finish(stage, {})


def test_an_evaluation_that_was_forged_into_another_queue_starts_nothing(installation, register_worker):
    request = installation.send(Stage.PUBLISH)
    installation.write(transitions.claim, "j", 1, Stage.PUBLISH, worker_id="w", lease_s=90)
    installation.write(transitions.advance, Claim("j", 1, "w"), Stage.PUBLISH, {})
    register_worker(queues=["celora"])
    with pytest.raises(Ignore), reopened(request, "j"):
        pytest.fail("an evaluation of another queue was carried")
    register_worker(queues=["gpu.cpu"])
    with reopened(request, "j") as stage:
        assert stage.stage is Stage.EVALUATE


def test_a_drained_stage_goes_back_and_pays_no_attempt(installation):
    with pytest.raises(Ignore), installation.claimed(Stage.TRAIN):
        raise Drained(4)
    job = installation.job()
    assert (job.status, job.reason, job.step, job.stale_attempts) == (Status.PENDING, Reason.PREEMPTED, 4, 0)


def test_a_cancelled_stage_ends_its_job(installation):
    def cancel_it():
        installation.write(requests.request_cancel, "j")
        raise Cancelled

    with pytest.raises(Ignore), installation.claimed(Stage.TRAIN):
        cancel_it()
    assert installation.job().status is Status.CANCELLED


def test_a_lost_stage_changes_nothing(installation):
    with pytest.raises(Ignore), installation.claimed(Stage.TRAIN):
        raise Lost
    assert installation.job().status is Status.RUNNING


def test_a_worker_that_was_fenced_cannot_finish(installation):
    def finish_late(stage):
        installation.write(transitions.release, stage.claim, Reason.PREEMPTED)
        finish(stage, {"step": 9})

    with pytest.raises(Ignore), installation.claimed(Stage.TRAIN) as stage:
        finish_late(stage)
    assert installation.job().step == 0


def test_an_error_is_the_messages_own_and_the_jobs(installation):
    request = installation.send(Stage.PREPARE)
    with pytest.raises(DataError), claimed(request, Stage.PREPARE, "j", 1):
        raise DataError("line 3 is no JSON.", hint="Mend it.")
    job = installation.job()
    assert (job.status, job.error["code"], job.error["hint"]) == (Status.FAILED, "bad_data", "Mend it.")
    assert request.chain is None


def test_only_a_completed_job_is_opened_again(installation):
    installation.send(Stage.PUBLISH)
    request = installation.request(Stage.EVALUATE)
    with pytest.raises(Ignore), reopened(request, "j"):
        pytest.fail("a job that runs was opened")
    installation.write(transitions.claim, "j", 1, Stage.PUBLISH, worker_id="w", lease_s=90)
    installation.write(transitions.advance, Claim("j", 1, "w"), Stage.PUBLISH, {})
    with reopened(request, "j") as stage:
        assert (stage.stage, stage.job.stage) == (Stage.EVALUATE, Stage.PUBLISH)


@pytest.mark.parametrize(
    ("stage", "fields", "runs_s"),
    [
        (Stage.TRAIN, {}, None),
        (Stage.TRAIN, {"time_limit_minutes": 2}, 90),
        (Stage.EVALUATE, {"time_limit_minutes": 2}, None),
        (Stage.EVALUATE, {"stage_time_limit_minutes": 3}, 180),
        (Stage.TRAIN, {"time_limit_minutes": 2, "stage_time_limit_minutes": 1}, 60),
    ],
)
def test_training_has_the_rest_of_its_time_and_every_stage_its_own_limit(stage, fields, runs_s):
    spec = parse_spec({"base_model": "b", "dataset": "/d.jsonl", **fields})
    assert limits_of(Job(train_s=30.0), stage, spec, load_settings(running=False)).runs_s == runs_s
