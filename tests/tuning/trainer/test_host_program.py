"""A resident trainer host as a process: its runs, its owner, its end and the report of it."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from trainer_host import hosting
from waiting import until

from celora.storage.manifest import file_sha256
from celora.tuning.protocol import HubAccess, TrainRequest
from celora.tuning.trainer.host_messages import Opening, owner_argument
from celora.tuning.trainer.host_program import open_owner
from celora.tuning.training import checkpoint

slow = pytest.mark.slow


def committed(request):
    return [step for step, _ in checkpoint.committed(Path(request.out_dir) / "checkpoints")]


def adapter_sha256(request):
    return file_sha256(Path(request.out_dir) / "adapter" / "adapter_model.safetensors")


def test_an_owner_that_is_another_process_by_now_or_none_has_ended():
    descriptor = open_owner(owner_argument())
    assert descriptor is not None
    os.close(descriptor)
    assert open_owner(f"{os.getpid()}:1") is None
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    assert open_owner(f"{ended.pid}:1") is None


@slow
def test_runs_end_in_each_way_until_the_host_is_killed_and_a_drained_run_is_resumed_exactly(make_request, tmp_path):
    whole, parts = make_request(out="whole", epochs=4), make_request(out="parts", epochs=4)
    endless, log = make_request(max_steps=100_000), tmp_path / "log"
    with hosting(tmp_path / "run") as host:
        assert stat.S_IMODE(host.place.stat().st_mode) == 0o600
        assert host.run(whole, log=log).end() == 0
        run = host.run(parts, log=log)
        run.until("progress", step=3)
        run.control("drain", attempt=2)
        run.control("drain", job="another")
        run.control("stacks")
        run.control("drain")
        assert run.end() == 75
        assert "host_runs.py" in log.read_text()  # the stacks of the thread that trains
        assert run.names[-2:] == ["checkpoint", "drained"]
        step, drained = run.seen[-1]["step"], run.of("progress")[-1]["step"]
        assert step == drained
        saved = {"attempt": 2, "resume_from": run.of("checkpoint")[-1]["path"]}
        assert host.run(parts.model_copy(update=saved), log=log).end() == 0
        assert adapter_sha256(parts) == adapter_sha256(whole)

        gone = host.run(endless, log=log)
        gone.until("progress", step=2)
        gone.close()  # as when the supervisor dies
        until(lambda: committed(endless))
        until(lambda: not host.state().runs)

        failed = host.run(make_request(out="failed", target_modules=["c_attn"]), log=log)
        assert failed.end() == 64
        assert failed.seen[-1]["error"]["code"] == "bad_settings"
        assert host.run(make_request(), opening=Opening(exclusive=True)).until_refused() == "exclusive"
        nowhere = TrainRequest(**{**whole.model_dump(), "hub": HubAccess(offline=True, allowed_bases=["x"])})
        assert host.run(nowhere, log=log).until_refused() == "base"

        again = make_request(out="again", epochs=4)
        assert host.run(again, log=log).end() == 0
        assert adapter_sha256(again) == adapter_sha256(whole)

        run = host.run(make_request(out="killed", max_steps=100_000))
        run.until("progress", step=1)
        assert run.greeting.generation == gone.greeting.generation  # all in one process, until somebody kills it
        os.kill(run.greeting.pid, signal.SIGKILL)
        assert run.end() is None
        report = host.report(run.greeting.generation)
        assert (report.code, report.signal, report.runs) == (None, signal.SIGKILL, ["job:1"])
        assert host.process.wait() == 128 + signal.SIGKILL
        assert not host.place.exists()


@slow
def test_a_host_drains_and_ends_with_its_owner(make_request, tmp_path):
    request = make_request(max_steps=100_000)
    with (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner,
        hosting(tmp_path / "run", owner=owner_argument(owner.pid)) as host,
    ):
        run = host.run(request)
        run.until("progress", step=1)
        owner.communicate(b"\n")
        assert run.end() == 75
        assert host.process.wait() == 0
        assert host.report(run.greeting.generation).code == 0
    assert committed(request)


@slow
def test_sigterm_drains_a_second_host_leaves_and_the_end_of_the_parent_ends_the_host(make_request, tmp_path):
    request = make_request(max_steps=100_000)
    with hosting(tmp_path / "run") as host:
        with hosting(tmp_path / "run") as other:
            assert other.process.wait() == 0
        run = host.run(request)
        run.until("progress", step=1)
        host.process.send_signal(signal.SIGTERM)
        assert run.end() == 75
        assert host.process.wait() == 0
    assert committed(request)
    with hosting(tmp_path / "run") as host:
        process = psutil.Process(host.state().pid)
        host.process.kill()
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


@slow
def test_a_step_that_never_returns_ends_the_host_after_the_grace_of_a_supervisor_that_is_gone(make_request, tmp_path):
    request = make_request(max_steps=100_000, request={"grace_s": 0.5})
    stuck = {"CELORA_FAILPOINT": "step.forward:sleep=600@9", "CELORA_FAILPOINT_ONCE": str(tmp_path)}
    with hosting(tmp_path / "run", **stuck) as host:
        run = host.run(request, log=tmp_path / "log")
        until((tmp_path / "step.forward").exists)
        run.close()
        assert host.process.wait(200) == 71
        report = host.report(run.greeting.generation)
        assert (report.code, report.runs) == (71, ["job:1"])
        assert "in compute_loss" in (tmp_path / "log").read_text()


@slow
def test_a_host_without_work_ends_and_its_socket_is_gone(tmp_path):
    with hosting(tmp_path / "run", idle_s=0.5) as host:
        generation = host.state().generation
        assert host.process.wait() == 0
        assert not host.place.exists()
        assert host.report(generation).code == 0
