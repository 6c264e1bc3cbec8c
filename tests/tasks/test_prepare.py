"""``celora.prepare``: its job moves on to training, or fails in the trainer's words."""

import pytest
from celery.exceptions import Ignore
from claimed_job import PREPARED

from celora.models.states import Stage, Status
from celora.tasks.prepare import prepare
from celora.workers.trainer.supervisor import TrainerError


def test_a_job_whose_data_is_prepared_waits_for_its_training(installation, carry, trainer):
    installation.send(Stage.PREPARE)
    trainer({"event": "done", "result": PREPARED | {"warnings": ["short rows"]}})
    report = carry(prepare, Stage.PREPARE, attempt=1)
    job = installation.job()
    assert (job.status, job.stage, job.warnings) == (Status.PENDING, Stage.TRAIN, ["short rows"])
    assert (job.base["name"], job.prepared["train_rows"]) == ("tiny", 8)
    assert (report["job"], report["stage"]) == ("j", "prepare")


def test_a_trainer_that_refuses_the_data_fails_the_job_and_the_task(installation, carry, trainer):
    installation.send(Stage.PREPARE)
    trainer({"event": "failed", "error": {"code": "bad_data", "message": "line 3 is no JSON.", "hint": ""}})
    with pytest.raises(TrainerError, match="line 3 is no JSON"):
        carry(prepare, Stage.PREPARE, attempt=1)
    job = installation.job()
    assert (job.status, job.error["code"]) == (Status.FAILED, "bad_data")


def test_a_message_of_another_attempt_starts_no_trainer(installation, carry, trainer):
    installation.send(Stage.PREPARE)
    trainer({"event": "done", "result": PREPARED})
    with pytest.raises(Ignore):
        carry(prepare, Stage.PREPARE, attempt=2)
    assert installation.job().status is Status.QUEUED
