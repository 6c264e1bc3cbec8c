"""``celora.train``: the adapter is uploaded and its job moves on to its evaluation, or is tried again."""

import pytest
from claimed_job import RESOLVED, TRAINED

from celora.models.states import Reason, Stage, Status
from celora.storage.artifacts import Artifacts
from celora.tasks.train import train
from celora.workers.trainer.supervisor import TrainerError


def test_a_trained_adapter_is_uploaded_and_waits_for_its_evaluation(installation, carry, trainer):
    installation.send(Stage.TRAIN)
    trainer({"event": "done", "result": TRAINED}, "adapter")
    report = carry(train, Stage.TRAIN, attempt=1)
    job = installation.job()
    assert (job.stage, job.step, job.steps) == (Stage.EVALUATE, 9, 9)
    assert job.resolved["effective_batch"] == RESOLVED["effective_batch"]
    uri = job.result["adapter_uri"]
    assert Artifacts(installation.settings.artifacts).read_bytes(f"{uri}/made") == b"by the trainer"
    assert report["stage"] == "train"


def test_a_device_that_fails_sends_the_job_back_for_another_attempt(installation, carry, trainer):
    installation.send(Stage.TRAIN)
    trainer({"event": "failed", "error": {"code": "device", "message": "Xid 79", "hint": "", "facts": {}}})
    with pytest.raises(TrainerError, match="Xid 79"):
        carry(train, Stage.TRAIN, attempt=1)
    job = installation.job()
    assert (job.status, job.stage, job.reason) == (Status.PENDING, Stage.TRAIN, Reason.RETRYING)
    assert job.attempt == 2
