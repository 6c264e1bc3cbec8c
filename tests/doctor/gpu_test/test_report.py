"""The report of a trial: each step with its outcome, and JSON in the end."""

import json

import pytest

from celora.doctor.gpu_test.report import Report
from celora.errors import TrainingError
from celora.workers.gpu import Device

CPU = Device(index=0, gpu_type="cpu", uuid="", name="CPU", memory_bytes=2**33)


def breaks():
    raise ValueError("three")


def explains():
    raise TrainingError("it stalled.", hint="Look at the log.")


@pytest.mark.parametrize(
    ("step", "good", "detail"),
    [(lambda: "done", True, "done"), (breaks, False, "ValueError: three"),
     (explains, False, "it stalled. Look at the log.")],
)  # fmt: skip
def test_a_step_is_told_with_its_outcome(step, good, detail):
    told = []
    report = Report(CPU, told.append)
    assert report.take("train", step) is good
    assert report.passed is good
    (line,) = told
    assert line.startswith("ok " if good else "fail ")
    assert line.endswith(detail)
    (made,) = report.steps
    assert (made["name"], made["ok"], made["detail"]) == ("train", good, detail)
    assert made["seconds"] >= 0


def test_a_trial_without_a_step_has_not_passed():
    assert Report(CPU, print).passed is False


def test_one_failed_step_fails_the_trial():
    report = Report(CPU, lambda _line: None)
    report.take("prepare", lambda: "done")
    report.failed("start", TrainingError("the base is gone."))
    report.take("evaluate", lambda: "done")
    assert report.passed is False
    assert [step["ok"] for step in report.steps] == [True, False, True]


def test_the_report_is_json_with_device_versions_and_facts(tmp_path):
    report = Report(CPU, lambda _line: None)
    report.facts |= {"tokens_per_s": 12.5}
    report.take("prepare", lambda: "done")
    made = json.loads(json.dumps(report.finished(log=tmp_path)))
    assert made["passed"] is True
    assert made["tokens_per_s"] == 12.5
    assert made["tried_in"] == str(tmp_path)
    assert made["device"]["type"] == "cpu"
    assert made["device"]["name"] != "CPU", "the processor's own name"
    assert made["stages"] == report.steps
    assert {"python", "celora", "torch"} <= set(made["versions"])
