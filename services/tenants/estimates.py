"""Estimates the use of a job: from the size of its data when it is accepted, from its receipt once it is prepared.

The first rule is stated so that people can compute it: a minute, and a second for each 8,000 bytes of training data and
epoch, at the price of the GPU type. A job with ``gpu: auto`` counts at the cheapest type with a GPU. The rule is coarse
on purpose; the receipt, which counts tokens, replaces it before the job gets a device.
"""

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ...models.jobs.limits import budget_of
from ...models.queue.estimates import STAGE_START_S, device_estimate
from ...models.states import Stage
from ...models.tables import Dataset, Job, JobDataset
from ...models.tables.dataset import TRAIN
from ...models.tenants.use import MICROS, Use
from ...settings.gpus import GpuType

BYTES_PER_S = 8_000
"""Bytes of training data that count as a second: about 2,000 tokens."""
LEAST_S = 60.0
FILE_URI = "file://"


def from_bytes(job: Job, size_bytes: int, types: Mapping[str, GpuType]) -> Use:
    """Estimate the whole use of a job that is not prepared yet.

    Example:
        8 MB and 3 epochs on an H100 at 3.50 an hour are 3,060 s, and so 2.975.
    """
    epochs = float(job.spec.get("epochs") or 1)
    seconds = LEAST_S + size_bytes * epochs / BYTES_PER_S
    limit = job.spec.get("time_limit_minutes")
    seconds = seconds if limit is None else max(LEAST_S, min(seconds, float(limit) * 60))
    return _bounded(job, seconds, _price(job.gpu, types))


def from_receipt(job: Job, types: Mapping[str, GpuType]) -> Use | None:
    """Estimate the rest of a prepared job's use; None where its receipt has no estimate of the device.

    Earlier runs of the same kind correct the receipt's formula. The steps that are trained already, and the training
    where only the evaluation is left, do not count again.
    """
    row = device_estimate(job)
    if row is None:
        return None
    done = (job.step / job.steps) if job.steps else 0.0
    train_s = STAGE_START_S + row.train_s * max(0.0, 1 - done) if job.stage is Stage.TRAIN else 0.0
    seconds = max(LEAST_S, (train_s + STAGE_START_S + row.evaluate_s) * row.history.factor)
    known = types.get(row.name)
    return _bounded(job, seconds, known.price_per_hour if known else row.price_per_hour)


def training_bytes(session: Session, job: Job) -> int:
    """Return the size of a job's training data; 0 where it is remote and so unknown."""
    registered = session.scalar(
        select(func.sum(Dataset.size_bytes))
        .join(JobDataset, JobDataset.dataset_id == Dataset.id)
        .where(JobDataset.job_id == job.id, JobDataset.role == TRAIN)
    )
    if registered:
        return int(registered)
    try:
        return Path(str(job.spec.get("dataset", "")).removeprefix(FILE_URI)).stat().st_size
    except (OSError, ValueError):
        return 0


def _price(gpu: str, types: Mapping[str, GpuType]) -> float:
    if gpu in types:
        return types[gpu].price_per_hour
    return min((one.price_per_hour for one in types.values() if one.name != "cpu" and one.price_per_hour), default=0.0)


def beyond_budget(job: Job, use: Use, types: Mapping[str, GpuType]) -> tuple[float, float] | None:
    """Return a job's cost so far with that of its estimated use, and its budget, where the budget will not suffice."""
    budget = budget_of(job)
    cost = (job.cost or 0.0) + use.device_ms / 1000 * _price(job.gpu, types) / 3600
    return (cost, budget) if budget is not None and cost > budget else None


def _bounded(job: Job, seconds: float, price_per_hour: float) -> Use:
    """Return the use of so many seconds; its cost is at most what the job's budget leaves."""
    use, budget = Use.of(seconds, seconds * price_per_hour / 3600), budget_of(job)
    if budget is None:
        return use
    return Use(use.device_ms, min(use.cost_micros, max(0, round((budget - (job.cost or 0.0)) * MICROS))))
