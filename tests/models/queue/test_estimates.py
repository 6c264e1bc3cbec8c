"""The estimate of a job is read from its receipt, whatever version wrote it, and stands beside the job's use."""

import pytest

from celora.models.queue.estimates import device_estimate, estimate_view
from celora.models.tables import Job

DEVICES = [
    {"name": "t4", "fits": False, "train_s": 900.0, "evaluate_s": 90.0, "price_per_hour": 0.35},
    {"name": "h100", "fits": True, "train_s": 100.0, "evaluate_s": 20.0, "price_per_hour": 3.5,
     "memory_bytes": {"total": 5, "weights": 3}, "history": {"runs": 4, "factor": 2.0, "low": 1.5, "high": 3.0}},
    {"name": "b200", "fits": True, "train_s": 10.0, "evaluate_s": 2.0, "price_per_hour": 9.0},
]  # fmt: skip


def job(**known):
    fields = {"gpu": "auto", "gpu_type": None, "gpu_seconds": 0.0, "result": None}
    return Job(**{**fields, "prepared": {"receipt": {"estimate": {"devices": DEVICES}}}, **known})


@pytest.mark.parametrize(("known", "name"), [
    ({}, "h100"), ({"gpu": "t4"}, "t4"), ({"gpu_type": "b200"}, "b200"), ({"gpu": "unknown"}, "h100"),
])  # fmt: skip
def test_the_row_is_that_of_the_jobs_device_or_of_the_cheapest_that_fits(known, name):
    assert device_estimate(job(**known)).name == name


@pytest.mark.parametrize("prepared", [None, {}, {"receipt": {}}, {"receipt": {"estimate": {"devices": []}}}])
def test_without_a_receipt_there_is_no_estimate(prepared):
    assert estimate_view(job(prepared=prepared)) is None


def test_history_corrects_the_formula_and_its_range():
    shown = estimate_view(job(gpu_seconds=200.04, result={"peak_memory_bytes": 4}))
    assert (shown["seconds"], shown["low_s"], shown["high_s"], shown["runs"]) == (260.0, 195.0, 390.0, 4)
    assert (shown["took_s"], shown["memory_bytes"], shown["peak_memory_bytes"]) == (200.0, 5, 4)


def test_a_formula_alone_has_the_range_of_half_to_twice():
    shown = estimate_view(job(gpu="b200"))
    assert (shown["seconds"], shown["low_s"], shown["high_s"], shown["runs"]) == (22.0, 11.0, 44.0, 0)
    assert (shown["took_s"], shown["memory_bytes"], shown["peak_memory_bytes"]) == (None, None, None)
