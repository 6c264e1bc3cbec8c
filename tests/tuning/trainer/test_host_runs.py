"""Jobs through one resident host: equal to those of processes of their own, and nothing of them stays."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from trainer_host import hosting
from waiting import until

from celora.storage.manifest import file_sha256
from celora.tuning.protocol import EvaluateRequest, HubAccess
from celora.tuning.trainer.host_messages import WAITING, Opening
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


def beside(run):
    """Read a run to its end on a thread; return the thread."""
    reading = threading.Thread(target=run.end, daemon=True)
    reading.start()
    return reading


def named(make_request, name, **recipe):
    return make_request(out=f"out-{name}", request={"job": name}, **OFTEN, **recipe)


def test_jobs_in_turns_are_equal_to_the_bit_to_those_of_processes_and_share_the_time(make_request, tmp_path):
    log, alone = tmp_path / "log", {}
    for name, recipe in JOBS.items():
        request = make_request(out=f"alone-{name}", **OFTEN, **recipe)
        alone[name] = facts(in_a_process(request, log)), adapter(request)
    with hosting(tmp_path / "run", slots=3) as host:
        requests = {name: named(make_request, name, **recipe) for name, recipe in JOBS.items()}
        runs = {
            name: host.run(request, log=tmp_path / f"{name}.log", opening=Opening(tenant="a"))
            for name, request in requests.items()
        }
        for reading in [beside(run) for run in runs.values()]:
            reading.join(300)
        for name, run in runs.items():
            assert run.last == {**run.last, "exit": 0}, (tmp_path / f"{name}.log").read_text() + host.log.read_text()
            assert (facts(run.seen), adapter(requests[name])) == alone[name], name
            assert run.seen[-1]["phase"] == "left the device"
        result = runs["dropout"].of("done")[0]["result"]
        asked = evaluation(requests["dropout"], result, tmp_path / "rows-1" / "rows")
        again = evaluation(requests["dropout"], result, tmp_path / "rows-2" / "rows")
        both = [host.run(asked), host.run(again.model_copy(update={"job": "again"}))]
        for reading in [beside(run) for run in both]:
            reading.join(300)
        first, second = (without_times(run.of("done")[0]["result"]) for run in both)
        assert all(check["ok"] for check in first["checks"])
        assert first == second
        assert host.state().runs == []


def test_steps_alternate_and_the_shares_are_not_more_than_the_time(make_request, tmp_path):
    steps = {"max_steps": 30, "save_minutes": 60}
    with hosting(tmp_path / "run", slots=2) as host:
        seen, lock = [], threading.Lock()

        def read(name, run):
            for event in run.events():
                if event["event"] == "progress":
                    with lock:
                        seen.append(name)

        runs = {name: host.run(named(make_request, name, **steps)) for name in ("a", "b")}
        threads = [threading.Thread(target=read, args=item, daemon=True) for item in runs.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        begun = max(seen.index("a"), seen.index("b"))
        ended = min(len(seen) - 1 - seen[::-1].index(name) for name in "ab")
        together = "".join(seen[begun:ended])
        assert len(together) > 10, seen
        assert together.count("aaa") + together.count("bbb") <= 1, together  # reading is not quite the order of writing
        for run in runs.values():
            shares = [event["device_s"] for event in run.seen if "device_s" in event]
            assert shares == sorted(shares)
            run.close()


def test_a_run_without_room_waits_and_a_cancel_of_one_leaves_the_other(make_request, tmp_path):
    long = {"max_steps": 100_000, "save_minutes": 60}
    with hosting(tmp_path / "run", slots=2) as host:
        first = host.run(named(make_request, "first", **long))
        readers = [beside(first)]  # a client that reads nothing counts as gone
        until(lambda: first.of("progress"))
        large = host.run(named(make_request, "large", epochs=1), opening=Opening(memory_bytes=2**60))
        assert large.until("phase")["phase"] == WAITING
        large.close()
        until(lambda: host.state().runs == ["first:1"])
        second = host.run(named(make_request, "second", **long))
        readers.append(beside(second))
        until(lambda: second.of("progress"))
        first.control("cancel")
        readers[0].join(240)
        assert first.last == {**first.last, "exit": 75}
        steps = len(second.of("progress"))
        until(lambda: len(second.of("progress")) > steps)
        generation = host.state().generation
        third = host.run(named(make_request, "third", **long))
        readers.append(beside(third))
        until(lambda: third.of("progress"))
        os.kill(host.state().pid, signal.SIGKILL)
        for reader in readers:
            reader.join(240)
        assert [second.last, third.last] == [None, None]
        assert sorted(host.report(generation).runs) == ["second:1", "third:1"]
