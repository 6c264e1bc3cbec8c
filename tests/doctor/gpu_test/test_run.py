"""``celora doctor --gpu``: a minute of the real thing, on the CPU; and what it leaves behind when it is cut short."""

import json
import os
import subprocess
import sys

import psutil
import pytest

from celora.doctor.gpu_test.home import Home
from celora.doctor.gpu_test.report import Report
from celora.doctor.gpu_test.run import Trial
from celora.settings.settings import get_settings
from celora.workers.gpu import Device, driver

pytestmark = pytest.mark.skipif(driver() is not None, reason="a machine with a GPU never trains on its CPU")
CPU = Device(index=0, gpu_type="cpu", uuid="", name="CPU", memory_bytes=8 * 2**30)
STAGES = [
    "NF4 there and back", "prepare", "load and quantize", "train", "kill", "resume", "train to the end", "evaluate",
    "publish", "memory given back",
]  # fmt: skip


def doctor(*words, **environment):
    command = [sys.executable, "-c", "from celora.cli.app import main; main()", "doctor", *map(str, words)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=250, check=False
    )


def processes_of(folder):
    """Those that live in a home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CELORA_HOME") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.mark.slow
def test_it_trains_kills_resumes_evaluates_and_reports(home, base, tmp_path):
    report = tmp_path / "report.json"
    words = ("--gpu", "--device", "cpu", "--base-model", base, "--steps", 30, "--report", report)
    done = doctor(*words, OMP_NUM_THREADS="1", CELORA_TRAINER_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    made = json.loads(report.read_text())
    assert made["passed"] is True
    assert [stage["name"] for stage in made["stages"]] == STAGES
    assert all(stage["ok"] for stage in made["stages"])
    details = {stage["name"]: stage["detail"] for stage in made["stages"]}
    assert details["resume"] == "goes on from step 5, attempt 2"
    assert details["train to the end"].startswith("30 of 30 steps")
    assert made["device"]["type"] == "cpu"
    assert made["driver"] is None
    assert made["tokens_per_s"] > 0
    assert made["peak_memory_bytes"] > 10**8
    assert made["resumed_exactly"] is True
    assert {"celora", "torch", "bitsandbytes"} <= set(made["versions"])
    assert all(name in done.stdout for name in STAGES)
    assert "passed (10 stages)" in done.stdout
    assert list((home / "doctor").iterdir()) == []
    assert not (home / "celora.db").exists(), "the installation's own record is not touched"


@pytest.mark.slow
def test_one_that_takes_too_long_says_so_and_leaves_no_process_behind(home, base, rows):
    told = []
    with Home(get_settings().home / "doctor" / "trial") as place:
        report = Report(CPU, told.append)
        Trial(place, CPU, report, within_s=4).run({"base_model": str(base), "dataset": str(rows), "max_steps": 9999})
        assert processes_of(place.folder) == []
    assert report.passed is False
    assert "it took too long" in told[-1]
    assert "run-job.log" in told[-1]
