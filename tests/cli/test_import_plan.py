"""The plan of an import: the settings that both services have, the cheapest device, and a table that no text breaks."""

import json

import pytest

from celora.api.client.base_table import BaseTable
from celora.api.client.openai_source import SourceJob
from celora.cli.import_plan import plan, write_table

TABLE = BaseTable(given={"gpt-4o*": "open-base"}, aliases={}, own=[], shipped={})


def job(**fields):
    known = {"id": "ftjob-1", "created_at": 1, "status": "succeeded", "model": "gpt-4o-mini", "training_file": "file-1"}
    return SourceJob.model_validate({**known, **fields})


def device(name, *, fits=True, cost=1.0):
    return {
        "name": name,
        "fits": fits,
        "train_s": 60.0,
        "evaluate_s": 6.0,
        "train_cost": cost,
        "evaluate_cost": cost / 10,
    }


def receipt(*devices):
    return {"estimate": {"epoch": {"examples": 8, "trained_tokens": 100, "epochs": 3.0}, "devices": list(devices)}}


def test_settings_that_both_services_have_are_kept():
    asked = {"n_epochs": 3, "beta": 0.2, "batch_size": 1}
    planned = plan(job(method="dpo", hyperparameters=asked, seed=7, suffix="bot", metadata={"team": "blue"}), TABLE)
    assert planned.fields == {
        "base_model": "open-base", "eval_fraction": 0.0, "epoch_checkpoints": True, "suffix": "bot", "epochs": 3,
        "metadata": {"team": "blue"}, "method": "dpo", "beta": 0.2, "seed": 7,
    }  # fmt: skip
    assert planned.wanted


def test_what_is_auto_or_out_of_range_is_left_to_celora():
    planned = plan(
        job(hyperparameters={"n_epochs": "auto"}, seed=2**40, fine_tuned_model="ft:gpt-4o-mini:acme:bot:9a"), TABLE
    )
    assert planned.fields == {
        "base_model": "open-base", "eval_fraction": 0.0, "epoch_checkpoints": True, "suffix": "bot", "method": "sft",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "remark", "failed"),
    [
        ({"status": "failed"}, "its status there is failed", False),
        ({"method": "reinforcement"}, "the method reinforcement is not offered here.", True),
        ({"model": "o4-mini"}, "the table has no base for o4-mini: add a line, --bases TABLE.", True),
    ],
)
def test_a_job_that_is_not_done_again_says_why(fields, remark, failed):
    planned = plan(job(**fields), TABLE)
    assert (planned.wanted, planned.remark, planned.failed) == (False, remark, failed)


def test_a_job_on_a_trained_model_starts_from_its_base():
    planned = plan(job(model="ft:gpt-4o-mini:acme::9a"), TABLE)
    assert (planned.base, planned.wanted) == ("open-base", True)
    assert "starts from the base" in planned.remark


def test_the_price_is_that_of_the_cheapest_gpu_that_fits():
    planned = plan(job(), TABLE)
    planned.price(
        receipt(device("cpu", cost=0.0), device("t4", fits=False, cost=0.1), device("h100", cost=3.0), device("l4"))
    )
    assert (planned.device, planned.cost, planned.seconds) == ("l4", 1.1, 66.0)
    assert (planned.rows, planned.trained_tokens) == (8, 300)
    planned.price(receipt(device("cpu", cost=0.0)))
    assert planned.device == "cpu"
    planned.price(receipt(device("t4", fits=False)))
    assert (planned.failed, planned.wanted) == (True, False)


def test_the_table_is_one_row_a_job_whatever_its_texts_hold(tmp_path):
    rows = [plan(job(model="gpt-4o|<script>\n# x", trained_tokens=1234), TABLE), plan(job(status="running"), TABLE)]
    people, programs = write_table(rows, tmp_path / "new" / "out")
    lines = people.read_text().splitlines()
    assert (lines[0], len(lines)) == ("# Before and after", 6)
    assert "gpt-4o\\|\\<script\\> # x" in lines[4]
    assert "1,234" in lines[4]
    before, after = (json.loads(programs.read_text())[0][side] for side in ("before", "after"))
    assert (before["model"], after["base"], after["job_id"]) == ("gpt-4o|<script>\n# x", "open-base", None)
