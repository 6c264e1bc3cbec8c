"""The estimate of a job's use: by the stated rule from bytes and epochs, then from its receipt."""

import pytest

from celora.models.states import Stage
from celora.models.tables import Job
from celora.models.tenants.use import Use
from celora.services.tenants.estimates import from_bytes, from_receipt
from celora.settings.gpus import gpu_catalogue

TYPES = gpu_catalogue({})
RECEIPT = {"receipt": {"estimate": {"devices": [
    {"name": "h100", "fits": True, "train_s": 100.0, "evaluate_s": 20.0, "price_per_hour": 3.5},
    {"name": "t4", "fits": False, "train_s": 900.0, "evaluate_s": 90.0, "price_per_hour": 0.35},
]}}}  # fmt: skip


def job(**known):
    fields = {"stage": Stage.PREPARE, "gpu": "h100", "step": 0, "cost": 0.0, "spec": {"epochs": 3}}
    return Job(**{**fields, **known})


def test_bytes_and_epochs_count_by_the_stated_rule():
    assert from_bytes(job(), 8_000_000, TYPES) == Use.of(3060, 3060 * TYPES["h100"].price_per_hour / 3600)
    assert from_bytes(job(spec={}), 0, TYPES).device_ms == 60_000


def test_a_time_limit_bounds_the_estimate():
    assert from_bytes(job(spec={"epochs": 100, "time_limit_minutes": 5}), 10**12, TYPES).device_ms == 300_000
    assert from_bytes(job(spec={"time_limit_minutes": 0.1}), 10**12, TYPES).device_ms == 60_000


def test_any_gpu_counts_at_the_cheapest_type_with_a_gpu():
    cheapest = min(one.price_per_hour for one in TYPES.values() if one.name != "cpu")
    assert from_bytes(job(gpu="auto", spec={}), 0, TYPES).cost_micros == round(60 * cheapest / 3600 * 1e6)


def test_a_budget_bounds_the_cost_alone():
    assert from_bytes(job(spec={"epochs": 3, "budget": 1}, cost=0.25), 10**9, TYPES).cost_micros == 750_000


@pytest.mark.parametrize(
    ("known", "seconds"),
    [
        ({"stage": Stage.TRAIN}, 130),
        ({"stage": Stage.TRAIN, "step": 5, "steps": 10}, 80),
        ({"stage": Stage.EVALUATE, "step": 10, "steps": 10}, 60),
        ({"stage": Stage.TRAIN, "gpu": "auto"}, 130),
        ({"stage": Stage.TRAIN, "gpu": "auto", "gpu_type": "t4"}, 1000),
    ],
)
def test_a_receipt_counts_what_is_left(known, seconds):
    assert from_receipt(job(prepared=RECEIPT, **known), TYPES).device_ms == seconds * 1000


def test_earlier_runs_of_the_same_kind_correct_the_receipt():
    (h100, t4) = RECEIPT["receipt"]["estimate"]["devices"]
    known = {**h100, "history": {"runs": 12, "factor": 1.5, "low": 1.2, "high": 1.9}}
    prepared = {"receipt": {"estimate": {"devices": [known, t4]}}}
    assert from_receipt(job(stage=Stage.TRAIN, prepared=prepared), TYPES).device_ms == 195_000


@pytest.mark.parametrize("prepared", [None, {}, {"receipt": {}}, {"receipt": {"estimate": {"devices": []}}}])
def test_without_a_receipt_there_is_no_second_estimate(prepared):
    assert from_receipt(job(prepared=prepared), TYPES) is None
