"""Preparing fills the columns that training reads; a trainer's refusal is the job's error."""

import json

import pytest
from claimed_job import PREPARED

from celora.errors import SettingsError
from celora.models.states import Stage, Status
from celora.settings.gpus import gpu_catalogue
from celora.tuning.protocol import PrepareResult
from celora.workers.stages.prepare import beyond_type, expected_s, prepare_data, require_device
from celora.workers.trainer.supervisor import TrainerError


def test_prepared_data_and_receipt_become_the_jobs(installation, trainer):
    trainer({"event": "done", "result": PREPARED | {"receipt": {"rows": 8}, "warnings": ["short rows"]}})
    with installation.claimed(Stage.PREPARE) as stage:
        values = prepare_data(stage)
        assert stage.workspace.artifacts.committed(values["prepared_uri"])
        assert stage.workspace.artifacts.read_json(stage.workspace.uri("receipt.json")) == {"rows": 8}
    assert (values["memory_bytes"], values["warnings"]) == (1000, ["short rows"])
    assert values["base"] == PREPARED["base"]
    assert json.loads(json.dumps(values["prepared"])) == PREPARED | {"receipt": {"rows": 8}, "warnings": ["short rows"]}


def test_data_that_is_refused_fails_the_job_with_the_trainers_words(installation, trainer):
    trainer({"event": "failed", "error": {"code": "bad_data", "message": "line 3 is no JSON.", "hint": ""}})
    with pytest.raises(TrainerError), installation.claimed(Stage.PREPARE) as stage:
        prepare_data(stage)
    job = installation.job()
    assert (job.status, job.error["code"], job.error["message"]) == (Status.FAILED, "bad_data", "line 3 is no JSON.")


def test_the_seconds_on_each_gpu_type_are_taken_from_the_receipts_estimate():
    devices = [{"name": "h100", "train_s": 100.0, "evaluate_s": 20.04}, {"name": "t4", "train_s": 900, "evaluate_s": 1}]
    result = PrepareResult.model_validate(PREPARED | {"receipt": {"estimate": {"devices": devices}}})
    assert expected_s(result) == {"h100": 130.04, "t4": 911}
    assert expected_s(PrepareResult.model_validate(PREPARED)) == {}


def sized(gib, **fit):
    devices = [{"name": n, "would_fit_with": changes, "train_s": 1, "evaluate_s": 1} for n, changes in fit.items()]
    fields = {"memory_bytes": int(gib * 2**30), "receipt": {"estimate": {"devices": devices}}}
    return PrepareResult.model_validate(PREPARED | fields)


def test_a_job_for_any_type_that_no_type_can_hold_is_refused_with_the_numbers_and_the_remedy():
    types = gpu_catalogue({})
    require_device(sized(180), types)
    with pytest.raises(SettingsError, match=r"needs about 190\.0 GiB.*b200, has 180 GiB") as refused:
        require_device(sized(190, b200={"quantization": "nf4", "max_length": 1024, "rows_cut": 3}), types)
    assert refused.value.hint == "It would fit with quantization nf4, max_length 1024."
    assert refused.value.facts["need_bytes"] == 190 * 2**30
    with pytest.raises(SettingsError) as refused:
        require_device(sized(190), types)
    assert refused.value.hint == "Use a smaller base or shorter rows."


def test_a_named_type_that_is_too_small_by_the_estimate_is_marked():
    types = gpu_catalogue({})
    assert beyond_type(sized(24), "l4", types) is None
    assert beyond_type(sized(24), "gone", types) is None
    assert "needs about 25.0 GiB" in beyond_type(sized(25, l4={"max_length": 512}), "l4", types)
    assert "It would fit with max_length 512." in beyond_type(sized(25, l4={"max_length": 512}), "l4", types)


def test_a_refused_size_ends_the_job_and_keeps_its_receipt(installation, trainer):
    trainer({"event": "done", "result": PREPARED | {"memory_bytes": 2**40, "receipt": {"rows": 8}}})
    with pytest.raises(SettingsError), installation.claimed(Stage.PREPARE) as stage:
        prepare_data(stage)
    assert stage.workspace.artifacts.read_json(stage.workspace.uri("receipt.json")) == {"rows": 8}
    job = installation.job()
    assert (job.status, job.error["code"]) == (Status.FAILED, "bad_settings")
    assert job.error["facts"]["largest_bytes"] == 180 * 2**30
