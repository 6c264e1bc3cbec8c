"""The form of a job: its status for each native one, and what is asked against what is in force."""

import pytest
from moved_job import Moved

from celora.api.openai.job_object import job_object, phase
from celora.models.scope.scope import Scope
from celora.models.states import Stage, Status
from celora.models.tables import Job
from celora.services.openai import jobs


@pytest.mark.parametrize(
    ("status", "stage", "paused", "seen"),
    [
        (Status.PENDING, Stage.PREPARE, False, "validating_files"),
        (Status.RUNNING, Stage.PREPARE, False, "validating_files"),
        (Status.PENDING, Stage.TRAIN, False, "queued"),
        (Status.QUEUED, Stage.TRAIN, False, "queued"),
        (Status.PENDING, Stage.TRAIN, True, "queued"),
        (Status.RUNNING, Stage.TRAIN, False, "running"),
        (Status.QUEUED, Stage.PUBLISH, False, "running"),
        (Status.COMPLETED, Stage.PUBLISH, False, "succeeded"),
        (Status.FAILED, Stage.TRAIN, False, "failed"),
        (Status.CANCELLED, Stage.PREPARE, False, "cancelled"),
    ],
)
def test_each_status_has_its_name(submit, record, status, stage, paused, seen):  # noqa: PLR0917
    job_id = submit()["id"]
    with record.transaction(Scope.everything) as session:
        row = session.get_one(Job, job_id)
        row.stage, row.paused = stage, paused
        session.execute(Job.__table__.update().where(Job.id == job_id).values(status=status))
    found = jobs.find("default", job_id)
    assert phase(found) == seen
    assert job_object(found, 0.0).celora.status == ("paused" if paused else status.value)


def test_what_was_asked_becomes_what_is_in_force(submit, record):
    job = submit(hyperparameters={"n_epochs": "auto", "batch_size": 4})
    assert job["hyperparameters"] == {"n_epochs": "auto", "batch_size": 4, "learning_rate_multiplier": "auto"}
    Moved(record, job["id"]).complete([{"step": 1, "train_loss": 1.0}])
    done = job_object(jobs.find("default", job["id"]), 0.0)
    assert done.hyperparameters.model_dump() == {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0}
    assert done.method.supervised.hyperparameters == done.hyperparameters
    assert done.trained_tokens == 900
    assert done.fine_tuned_model
    assert done.error is None


def test_a_failure_has_a_code_a_sentence_and_the_parameter(submit, record):
    job = submit()
    moved = Moved(record, job["id"])
    moved.begin(Stage.PREPARE)
    moved.fail("bad_data", "/srv/x/data.jsonl, line 3: no JSON")
    error = job_object(jobs.find("default", job["id"]), 0.0).error
    assert error.model_dump() == {
        "code": "invalid_training_file", "message": "data.jsonl, line 3: no JSON", "param": "training_file",
    }  # fmt: skip
