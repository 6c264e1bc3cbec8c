"""The main job on real workers: apply_async in, a checked adapter out. One finished job answers most questions."""

import json
import os
import signal
from pathlib import Path

import pytest
from live_installation import refused_commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def finished(running, spec):
    """A job sent twice under one id, by an app that knows nothing of celora; its summary."""
    first = running.send(spec, task_id="twice")
    running.send(spec, task_id="twice")
    return first.get(timeout=240)


def folder_of(summary):
    return Path(summary["adapter"].removeprefix("file://"))


def test_a_foreign_app_gets_a_checked_adapter_from_send_task(running, finished):
    assert (finished["id"], finished["status"]) == ("twice", "completed")
    for side in ("base", "tuned"):
        assert {"eval_loss", "perplexity", "exact_match", "rouge_l", "bleu"} <= finished["metrics"][side].keys()
    names = {path.name for path in folder_of(finished).iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert str(running.settings.home) not in (folder_of(finished) / "adapter_config.json").read_text()
    receipt = json.loads((running.settings.home / "artifacts/jobs/twice/attempt-1/receipt.json").read_text())
    assert receipt["ok"]
    assert "cpu" in {device["name"] for device in receipt["estimate"]["devices"]}


def test_the_same_id_twice_is_one_job_and_the_record_tells_its_whole_story(running, finished, legal_history):
    job = running.job("twice")
    assert (job["status"], job["stage"], job["step"], job["steps"], job["attempt"]) == (
        "completed", "publish", 4, 4, 1,
    )  # fmt: skip
    assert job["cost"] > 0
    assert set(job["stage_seconds"]) == {"prepare", "train", "evaluate", "publish"}
    events = running.events("twice")
    assert legal_history(events) == []
    assert [event["kind"] for event in events].count("completed") == 1


def test_the_rows_of_the_evaluation_are_kept(finished):
    lines = (folder_of(finished).parent / "evaluation" / "rows.eval.jsonl").read_text().splitlines()
    assert {"prompt", "reference", "base", "tuned"} <= json.loads(lines[0]).keys()


def test_an_evaluation_is_repeated_alone_and_the_status_stays(running, finished):
    running.run("celora", "evaluate", "twice")
    running.wait("twice", lambda _: any(e["kind"] == "evaluated_again" for e in running.events("twice")))
    job = running.job("twice")
    assert job["status"] == "completed"
    expected = finished["metrics"]["tuned"]["eval_loss"]
    assert job["metrics"]["tuned"]["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_it_is_measured_on_the_base_as_it_will_be_served_beside_the_jobs_own_numbers(running, finished):
    running.run("celora", "evaluate", "twice", "--serving-dtype", "fp32")
    running.wait("twice", lambda _: any(e["kind"] == "measured_as_served" for e in running.events("twice")))
    job = running.job("twice")
    served = job["evaluation"]["serving"]["float32"]
    assert job["metrics"]["tuned"]["eval_loss"] == pytest.approx(finished["metrics"]["tuned"]["eval_loss"], rel=1e-5)
    assert served["metrics"]["tuned"]["eval_loss"] != job["metrics"]["tuned"]["eval_loss"]
    assert "float32, as it will be served" in running.run("celora", "status", "twice")


def test_it_is_pulled_as_whole_weights(running, finished, tmp_path):
    told = json.loads(
        running.run("celora", "pull", "twice", tmp_path / "whole", "--merged", "--dtype", "fp32", "--json")
    )
    assert told["logits_apart"] < told["adapter_effect"] / 100
    assert (tmp_path / "whole" / "model.safetensors").stat().st_size > 100_000


def test_the_task_itself_works_where_celora_is_installed(running, spec):
    program = (
        "import json, sys; from celora.tasks import finetune;"
        "result = finetune.apply_async(kwargs=json.loads(sys.argv[1]));"
        "print(json.dumps([result.id, result.get(timeout=240), result.state]))"
    )
    said = running.run("python", "-c", program, json.dumps({**spec, "quantization": "none"}))
    job_id, summary, state = json.loads(said)
    assert (summary["id"], summary["status"], state) == (job_id, "completed", "SUCCESS")


def test_a_wrong_spec_fails_at_once_with_the_nearest_field(running, spec):
    result = running.send({**spec, "lora_rnk": 8})
    with pytest.raises(Exception, match="lora_rnk is no field; did you mean rank"):
        result.get(timeout=240)
    job = running.wait(result.id, lambda job: job["status"] == "failed")
    assert job["error"]["code"] == "bad_settings"


def test_bad_data_fails_before_any_gpu_time_and_names_the_line(running, spec, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"instruction": "a", "output": "b"}\n{"instruction": "a", \n')
    result = running.send({**spec, "dataset": str(bad)})
    with pytest.raises(Exception, match="line 2"):
        result.get(timeout=60)
    job = running.job(result.id)
    assert (job["status"], job["stage"], job["error"]["code"]) == ("failed", "prepare", "bad_data")
    assert job["gpu_seconds"] == 0
    receipt = json.loads((running.settings.home / f"artifacts/jobs/{result.id}/attempt-1/receipt.json").read_text())
    assert (receipt["ok"], receipt["files"][0]["bad"]["counts"]) == (False, {"bad_json": 1})


def test_a_worker_killed_in_mid_training_costs_at_most_a_checkpoint(running, spec, legal_history):
    result = running.send({**spec, "max_steps": 60, "save_steps": 5, "eval_steps": 60, "metrics": []})
    job = running.wait(result.id, lambda job: job["stage"] == "train" and (job["step"] or 0) >= 12)
    worker = running.service(job["worker"].split("@")[0])
    os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    assert result.get(timeout=240)["status"] == "completed"
    job = running.job(result.id)
    assert job["attempt"] == 2
    events = running.events(result.id)
    resumed = next(event for event in events if event["kind"] == "resumed")
    assert int(resumed["message"].split("step ")[1].split()[0]) >= 10
    started = [event["data"]["worker"] for event in events if event["kind"] == "stage_started"]
    assert len({name for name in started if name.startswith("cpu-")}) == 2
    assert legal_history(events) == []
    worker.start(running.settings.home)


def test_a_job_revoked_in_mid_training_is_cancelled_and_its_process_is_gone(running, spec):
    result = running.send({**spec, "max_steps": 2000, "eval_steps": 2000})
    running.wait(result.id, lambda job: job["stage"] == "train" and (job["step"] or 0) >= 2)
    assert result.state == "PROGRESS"
    assert result.info["stage"] == "train"
    result.revoke()
    job = running.wait(result.id, lambda job: job["status"] == "cancelled")
    assert job["stage"] == "train"
    assert not [command for _, command in running.processes() if b"tuning.trainer" in command]
    assert result.state == "REVOKED"


def test_the_doctor_finds_no_fault_in_it(running):
    lines = running.run("celora", "doctor").splitlines()
    levels = {line.split()[1]: line.split()[0] for line in lines if line.startswith(("ok ", "warn ", "fail "))}
    assert "fail" not in levels.values()
    checked = ("broker", "record", "workers", "queues", "reaper", "storage", "torch", "dtype", "bitsandbytes")
    assert {name: levels[name] for name in checked} == dict.fromkeys(checked, "ok")
    tried = refused_commands(running.installation._broker)
    assert tried == [("default", "toplevel", "celora")], "the doctor tries to read a queue as an application"


def test_a_waiting_job_is_cancelled_at_once_from_the_command_line(running, spec):
    prep = running.service("prep")
    os.killpg(prep.process.pid, signal.SIGSTOP)
    try:
        result = running.send(spec)
        running.wait(result.id, lambda job: job["status"] in {"pending", "queued"})
        running.run("celora", "cancel", result.id)
        assert running.job(result.id)["status"] == "cancelled"
    finally:
        os.killpg(prep.process.pid, signal.SIGCONT)


def test_a_drained_worker_gives_its_job_back_without_paying_an_attempt(running, spec, legal_history):
    result = running.send({**spec, "max_steps": 150, "eval_steps": 150, "eval_max_rows": 0})
    job = running.wait(result.id, lambda job: job["stage"] == "train" and (job["step"] or 0) >= 3)
    worker = running.service(job["worker"].split("@")[0])
    worker.send_signal(signal.SIGTERM)
    assert worker.process.wait(timeout=240) == 0
    assert result.get(timeout=240)["status"] == "completed"
    events = running.events(result.id)
    released = next(event for event in events if event["kind"] == "released")
    resumed = next(event for event in events if event["kind"] == "resumed")
    assert f"from step {released['data']['resume_step']} " in resumed["message"]
    assert legal_history(events) == []
    assert running.job(result.id)["attempt"] == 2
    worker.start(running.settings.home)
