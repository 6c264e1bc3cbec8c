"""``celora.evaluate`` moves its job on to its publication; ``celora.reevaluate`` renews figures, and no status."""

import pytest
from celery.exceptions import Ignore
from sqlalchemy import func, select

from celora.models.jobs import transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.states import Stage, Status
from celora.models.tables import Charge, LedgerMonth
from celora.tasks.evaluate import evaluate, reevaluate
from celora.workers.trainer.supervisor import TrainerError

RESULT = {
    "metrics": {"base": {"eval_loss": 2.5}, "tuned": {"eval_loss": 0.5}, "sets": {"eval": {"rows": 2}}},
    "samples": [{"set": "eval", "prompt": "q"}],
    "checks": [{"name": "finite", "ok": True, "detail": ""}],
    "servable": {"vllm": True, "reason": ""},
    "warnings": ["few rows"],
}


@pytest.fixture
def completed(installation):
    """The job, completed with figures of its own."""
    installation.send(Stage.PUBLISH)
    installation.write(transitions.claim, "j", 1, Stage.PUBLISH, worker_id="w", lease_s=90)
    installation.write(transitions.advance, Claim("j", 1, "w"), Stage.PUBLISH, {"metrics": {"tuned": {}}})


def test_an_adapter_that_passes_its_checks_waits_for_its_publication(installation, carry, trainer):
    installation.send(Stage.EVALUATE)
    trainer({"event": "done", "result": RESULT})
    report = carry(evaluate, Stage.EVALUATE, attempt=1)
    job = installation.job()
    assert (job.status, job.stage) == (Status.QUEUED, Stage.PUBLISH)
    assert job.metrics["tuned"]["eval_loss"] == 0.5
    assert job.evaluation["checks"][0]["name"] == "finite"
    assert "few rows" in job.warnings
    assert report["stage"] == "evaluate"


def test_a_completed_job_is_measured_again_and_stays_completed(installation, carry, trainer, completed):
    trainer({"event": "done", "result": RESULT})
    carry(reevaluate, Stage.EVALUATE)
    job = installation.job()
    assert (job.status, job.stage, job.attempt) == (Status.COMPLETED, Stage.PUBLISH, 1)
    assert job.metrics["tuned"]["eval_loss"] == 0.5


def test_another_evaluation_is_charged_whether_it_succeeds_or_not(installation, carry, trainer, completed):
    before = installation.job().gpu_seconds
    trainer({"event": "done", "result": RESULT})
    carry(reevaluate, Stage.EVALUATE)
    once = installation.job().gpu_seconds
    trainer({"event": "failed", "error": {"code": "device", "message": "lost", "hint": ""}})
    with pytest.raises(TrainerError):
        carry(reevaluate, Stage.EVALUATE)
    job = installation.job()
    assert before < once < job.gpu_seconds
    with installation.database.session(Scope.everything) as session:
        spent_ms = session.scalar(select(func.sum(LedgerMonth.spent_ms)))
        charged_ms = session.scalar(select(func.sum(Charge.device_ms)))
    assert spent_ms == charged_ms == round(job.gpu_seconds * 1000)


def test_figures_of_another_dtype_stand_beside_the_job_s_own(installation, carry, trainer, completed):
    trainer({"event": "done", "result": RESULT})
    carry(reevaluate, Stage.EVALUATE, serving_dtype="bfloat16")
    job = installation.job()
    assert (job.status, job.metrics) == (Status.COMPLETED, {"tuned": {}})
    assert job.evaluation["serving"]["bfloat16"]["metrics"]["tuned"]["eval_loss"] == 0.5


def test_a_job_that_is_not_completed_is_not_measured_again(installation, carry, trainer):
    installation.send(Stage.EVALUATE)
    trainer({"event": "done", "result": RESULT})
    with pytest.raises(Ignore):
        carry(reevaluate, Stage.EVALUATE)
    assert installation.job().status is Status.QUEUED
