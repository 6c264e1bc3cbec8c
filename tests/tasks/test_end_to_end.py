"""The main job on real workers: apply_async in, a checked adapter out."""

import json
import os
import signal
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_a_foreign_app_gets_a_checked_adapter_from_send_task(running, spec):
    result = running.send(spec)
    summary = result.get(timeout=120)
    assert summary["status"] == "completed"
    assert summary["id"] == result.id
    for side in ("base", "tuned"):
        assert {"eval_loss", "perplexity", "exact_match", "rouge_l", "bleu"} <= summary["metrics"][side].keys()
    job = running.job(result.id)
    assert (job["status"], job["stage"], job["step"], job["steps"]) == ("completed", "publish", 4, 4)
    assert job["cost"] > 0
    assert set(job["stage_seconds"]) == {"prepare", "train", "evaluate", "publish"}
    folder = Path(summary["adapter"].removeprefix("file://"))
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert str(running.settings.home) not in (folder / "adapter_config.json").read_text()


def test_the_task_itself_works_where_celora_is_installed(running, spec):
    from celora.tasks import finetune

    result = finetune.apply_async(kwargs={**spec, "quantization": "none"})
    assert result.get(timeout=120)["id"] == result.id
    assert result.state == "SUCCESS"


def test_the_same_id_twice_is_one_job(running, spec):
    first = running.send(spec, task_id="twice")
    running.send(spec, task_id="twice")
    assert first.get(timeout=120)["status"] == "completed"
    job = running.job("twice")
    assert job["attempt"] == 1


def test_a_wrong_spec_fails_at_once_with_the_nearest_field(running, spec):
    result = running.send({**spec, "lora_rnk": 8})
    with pytest.raises(Exception, match="lora_rnk is no field; did you mean rank"):
        result.get(timeout=30)
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


def test_a_worker_killed_in_mid_training_costs_at_most_a_checkpoint(running, spec):
    second = {**spec, "max_steps": 60, "save_steps": 5, "eval_steps": 30}
    result = running.send(second)
    running.wait(result.id, lambda job: job["stage"] == "train" and (job["step"] or 0) >= 12)
    worker = running.service("cpu-0")
    os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    worker.start(running.settings.home)
    assert result.get(timeout=150)["status"] == "completed"
    job = running.job(result.id)
    assert job["attempt"] == 2
    events = running.events(result.id)
    resumed = next(event for event in events if event["kind"] == "resumed")
    assert "from step 10" in resumed["message"] or "from step 15" in resumed["message"]


def test_a_job_revoked_in_mid_training_is_cancelled_and_its_process_is_gone(running, spec):
    result = running.send({**spec, "max_steps": 500})
    running.wait(result.id, lambda job: job["stage"] == "train" and (job["step"] or 0) >= 2)
    result.revoke()
    job = running.wait(result.id, lambda job: job["status"] == "cancelled", timeout_s=30)
    assert job["stage"] == "train"
    assert not [c for _, c in running.processes() if b"tuning.trainer" in c]
    assert result.state == "REVOKED"


def test_a_pending_job_is_cancelled_at_once(running, spec):
    running.service("prep").tell(signal.SIGSTOP)
    try:
        result = running.send(spec)
        running.wait(result.id, lambda job: job["status"] in ("pending", "queued"))
        from celora.tasks.submission import cancel

        assert cancel(result.id) == "cancelled"
        assert running.job(result.id)["status"] == "cancelled"
    finally:
        running.service("prep").tell(signal.SIGCONT)


def test_a_drained_worker_gives_its_job_back_without_paying_an_attempt(running, spec):
    result = running.send({**spec, "max_steps": 60, "eval_steps": 60})
    running.wait(result.id, lambda job: job["stage"] == "train" and (job["step"] or 0) >= 3)
    worker = running.service("cpu-0")
    worker.tell(signal.SIGTERM)
    assert worker.process.wait(timeout=30) == 0
    job = running.job(result.id)
    assert (job["status"], job["reason"]) == ("pending", "preempted")
    worker.start(running.settings.home)
    assert result.get(timeout=150)["status"] == "completed"
    drained = next(e for e in running.events(result.id) if e["kind"] == "resumed")
    assert "from step" in drained["message"]


def test_an_evaluation_is_repeated_alone(running, spec):
    result = running.send(spec)
    first = result.get(timeout=120)
    from celora.tasks.submission import evaluate_again

    evaluate_again(result.id)
    running.wait(result.id, lambda job: any(e["kind"] == "evaluated_again" for e in running.events(result.id)))
    job = running.job(result.id)
    assert job["status"] == "completed"
    assert job["metrics"]["tuned"]["eval_loss"] == pytest.approx(first["metrics"]["tuned"]["eval_loss"], rel=1e-5)


def test_rows_of_the_evaluation_are_kept_and_nothing_of_this_machine_is_published(running, spec):
    result = running.send(spec)
    summary = result.get(timeout=120)
    folder = Path(summary["adapter"].removeprefix("file://")).parent
    rows = [json.loads(line) for line in (folder / "evaluation" / "rows.eval.jsonl").read_text().splitlines()]
    assert rows
    assert {"prompt", "reference", "base", "tuned"} <= rows[0].keys()
