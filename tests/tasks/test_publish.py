"""``celora.publish``: the adapter's folder is complete, its job is completed, and a broken store costs no adapter."""

import json

import pytest
from sqlalchemy import update

from celora.models.scope.scope import Scope
from celora.models.states import Stage, Status
from celora.models.tables import Adapter, File, Job
from celora.services.openai.result_file import result_id
from celora.settings import failpoints
from celora.storage.artifacts import Artifacts
from celora.tasks.publish import publish

METRICS = {"base": {"eval_loss": 2.5}, "tuned": {"eval_loss": 0.5}, "sets": {}}
EVALUATION = {"uri": "file:///e", "samples": [], "checks": [], "servable": {"vllm": True, "reason": ""}}


@pytest.fixture
def evaluated(installation):
    installation.send(Stage.PUBLISH)
    values = {"metrics": METRICS, "evaluation": EVALUATION}
    with installation.database.transaction(Scope.everything) as session:
        session.execute(update(Job).values(**values))


def test_a_checked_adapter_is_published_and_its_job_completed(installation, carry, evaluated):
    report = carry(publish, Stage.PUBLISH, attempt=1)
    job = installation.job()
    assert (job.status, report["stage"]) == (Status.COMPLETED, "publish")
    with installation.database.session(Scope.everything) as session:
        adapter = session.get_one(Adapter, "j")
    assert (adapter.base_name, adapter.rank) == ("tiny", 16)
    assert job.summary["adapter"] == adapter.uri
    artifacts = Artifacts(installation.settings.artifacts)
    assert artifacts.committed(adapter.uri)
    assert artifacts.read_bytes(f"{adapter.uri}/adapter_model.safetensors") == b"weights"
    config = json.loads(artifacts.read_bytes(f"{adapter.uri}/adapter_config.json"))
    assert config["base_model_name_or_path"] == "tiny"


def test_a_store_that_fails_leaves_no_adapter_and_the_job_is_tried_again(installation, carry, evaluated, monkeypatch):
    monkeypatch.setattr(failpoints, "_armed", failpoints.parse("publish.assembled:error"))
    with pytest.raises(OSError, match=r"publish\.assembled"):
        carry(publish, Stage.PUBLISH, attempt=1)
    job = installation.job()
    assert (job.status, job.stage) == (Status.PENDING, Stage.PUBLISH)
    with installation.database.session(Scope.everything) as session:
        assert session.get(Adapter, "j") is None


def test_the_file_of_results_is_there_before_the_job_counts_as_completed(installation, carry, evaluated, monkeypatch):
    monkeypatch.setattr(failpoints, "_armed", failpoints.parse("ending.written:error"))
    with pytest.raises(OSError, match=r"ending\.written"):
        carry(publish, Stage.PUBLISH, attempt=1)
    assert installation.job().status is not Status.COMPLETED
    with installation.database.session(Scope.everything) as session:
        assert session.get(File, result_id("j")) is not None
