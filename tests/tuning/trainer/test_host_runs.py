"""Jobs through one resident host: equal to those of processes of their own, and nothing of them stays."""

import json
from pathlib import Path

import pytest
from trainer_host import hosting

from celora.storage.manifest import file_sha256
from celora.tuning.protocol import EvaluateRequest, HubAccess
from celora.workers.trainer.process import TrainerProcess

pytestmark = pytest.mark.slow

EXACT = (
    "step",
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens",
    "eval_loss",
    "eval_accuracy",
    "answer",
    "planned_steps",
)
"""Fields of the events that must be equal to the bit."""
OFTEN = {"eval_steps": 3}  # evaluations that nobody asked for may wait, which is a matter of time
JOBS = {
    "dropout": {"dropout": 0.1, "epochs": 2},
    "packed": {"quantization": "nf4", "packing": True, "gradient_checkpointing": True, "epochs": 1},
    "dora": {"dora": True, "epochs": 1, "rank": 2},
}


def facts(events):
    return [{name: event[name] for name in EXACT if name in event} for event in events if event["event"] != "phase"]


def adapter(request):
    folder = Path(request.out_dir) / "adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"].sort()  # PEFT writes a set
    return file_sha256(folder / "adapter_model.safetensors"), config


def in_a_process(request, log):
    process = TrainerProcess(request, log)
    events = []
    while (some := process.events(0.2)) is not None:
        events += some
    assert process.close() == 0, log.read_text()
    return events


def in_a_host(host, request, log):
    run = host.run(request, log=log)
    assert run.end() == 0, log.read_text() + host.log.read_text()
    return run.seen


def evaluation(request, result, out):
    return EvaluateRequest(
        job="job",
        attempt=1,
        cache_dir=request.cache_dir,
        owner=str(out),  # so that no answers of an earlier evaluation are reused
        hub=HubAccess(offline=True),
        threads=1,
        base=request.base,
        prepared_dir=request.prepared_dir,
        adapter_dir=result["adapter_dir"],
        recipe=result["resolved"],
        metrics=["exact_match"],
        max_new_tokens=8,
        trainer_eval_loss=result["eval_loss"],
        out_dir=str(out),
    )


def without_times(value):
    if isinstance(value, dict):
        return {name: without_times(one) for name, one in value.items() if name != "tokens_per_s"}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def test_jobs_of_a_host_are_equal_to_the_bit_to_those_of_processes_and_leave_nothing(make_request, tmp_path):
    log = tmp_path / "log"
    alone = {}
    for name, recipe in JOBS.items():
        request = make_request(out=f"alone-{name}", **OFTEN, **recipe)
        alone[name] = facts(in_a_process(request, log)), adapter(request)
    with hosting(tmp_path / "run") as host:
        tensors, generation = [], host.state().generation
        for number, name in enumerate([*JOBS, "dropout"]):
            request = make_request(out=f"hosted-{number}", **OFTEN, **JOBS[name])
            events = in_a_host(host, request, log)
            assert (facts(events), adapter(request)) == alone[name], name
            if name == "dropout":
                result = events[-1]["result"]
                asked = evaluation(request, result, tmp_path / f"rows-{number}" / "rows")
                measured = without_times(in_a_host(host, asked, log)[-1]["result"])
                assert all(check["ok"] for check in measured["checks"])
                tensors.append((host.state().tensors, host.state().resident))
        (first, base), (second, same) = tensors
        assert first == second  # three runs and another base later
        assert base.memory_bytes == same.memory_bytes
        assert host.state().generation == generation
        again = evaluation(request, result, tmp_path / "again" / "rows")
    assert without_times(in_a_process(again, log)[-1]["result"]) == measured
