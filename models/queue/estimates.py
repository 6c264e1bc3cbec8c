"""Reads the estimate of a job from its receipt, and shows it beside the job's measured use."""

from pydantic import Field

from ..columns import StoredModel
from ..tables import Job
from ..tables.types import JsonObject


class History(StoredModel):
    """The runs of the same kind that correct an estimate (``scheduling.history``)."""

    runs: int = 0
    factor: float = 1.0
    low: float = 0.5
    high: float = 2.0


class MemoryEstimate(StoredModel):
    """The sum of the parts of the device memory."""

    total: int = 0


STAGE_START_S = 5.0
"""Seconds from the start of a stage to its first step, in which libraries, base and adapter are loaded. Measured on two
cores with SmolLM2: 1.6 s from the fork server, 7.3 s in a new process."""


class DeviceEstimate(StoredModel):
    """The row of a device type in a receipt; ``history`` is there where earlier runs correct it."""

    name: str = ""
    fits: bool = False
    train_s: float = 0.0
    evaluate_s: float = 0.0
    price_per_hour: float = 0.0
    memory_bytes: MemoryEstimate = MemoryEstimate()
    history: History = History()

    @property
    def formula_s(self) -> float:
        """The seconds on the device: those of the receipt's formula, and the start of both stages."""
        return 2 * STAGE_START_S + self.train_s + self.evaluate_s

    @property
    def expected_s(self) -> float:
        """The seconds of the formula, corrected by the history."""
        return self.formula_s * self.history.factor


class Measured(StoredModel):
    """The part of a training's result that is compared with its estimate."""

    peak_memory_bytes: int | None = None


class _Estimate(StoredModel):
    devices: list[DeviceEstimate] = Field(default_factory=list[DeviceEstimate])


class _Receipt(StoredModel):
    estimate: _Estimate = _Estimate()


class _Prepared(StoredModel):
    receipt: _Receipt = _Receipt()


def device_estimate(job: Job) -> DeviceEstimate | None:
    """Return the receipt's row of the device type that the job has, or will probably get."""
    prepared = _Prepared.read(job.prepared)
    rows = prepared.receipt.estimate.devices if prepared is not None else []
    wanted = job.gpu_type or job.gpu
    named = [row for row in rows if row.name == wanted]
    return named[0] if named else min(rows, key=lambda row: (not row.fits, row.price_per_hour), default=None)


def measured_of(job: Job) -> Measured:
    """Read the measured use of the job's training; empty before its end."""
    return Measured.read(job.result) or Measured()


def estimate_view(job: Job) -> JsonObject | None:
    """Return the estimate of a prepared job beside its use so far; None where its receipt has none.

    ``seconds`` are those of training and evaluation on ``gpu_type``, with the range ``low_s`` to ``high_s`` and the
    number of earlier runs behind it; ``took_s`` and ``peak_memory_bytes`` are the job's own.
    """
    device = device_estimate(job)
    if device is None:
        return None
    history = device.history
    return {
        "gpu_type": device.name,
        "seconds": round(device.expected_s, 1),
        "low_s": round(device.formula_s * history.low, 1),
        "high_s": round(device.formula_s * history.high, 1),
        "runs": history.runs,
        "took_s": round(job.gpu_seconds, 1) if job.gpu_seconds else None,
        "memory_bytes": device.memory_bytes.total or None,
        "peak_memory_bytes": measured_of(job).peak_memory_bytes,
    }
