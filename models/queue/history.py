"""Keeps for each completed job its estimate beside its measured use, and reads the runs that are like a new job.

A run counts for its base family, GPU type and length. A job that needed more than one attempt is left out: its time
holds work that was done twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..tables import Job, MeasuredRun
from ..tables.types import JsonObject
from .estimates import device_estimate, measured_of

MOST_RUNS = 50
"""Runs of one kind that count, the latest ones: libraries and drivers change."""
MOST_READ = 2_000
MOST_RECENT = 200
"""Runs of every kind by which the range of a forecast is measured."""
ENOUGH = 3
"""Runs of the same length that suffice; with fewer, the runs of every length count."""


def family_of(base: JsonObject) -> str:
    """Return the family of a base: its architecture and its size to two digits, as in ``llama 8B``."""
    billions = float(base.get("parameters") or 0) / 1e9
    return f"{base.get('model_type') or 'unknown'} {billions:.2g}B"[:64]


def length_of(max_length_tokens: int) -> int:
    """Return the class of a length: the next power of two."""
    return 1 << max(0, int(max_length_tokens) - 1).bit_length()


def record_run(session: Session, job: Job) -> None:
    """Keep the estimate and the use of a job that has completed in its first attempt."""
    device = device_estimate(job)
    formula_s = device.formula_s if device is not None else 0.0
    if device is None or formula_s <= 0 or job.gpu_seconds <= 0 or job.attempt != 1 or job.gpu_type != device.name:
        return
    peak_bytes = measured_of(job).peak_memory_bytes if not job.adjusted else None
    session.add(
        MeasuredRun(
            job_id=job.id, family=family_of(job.base or {}), gpu_type=device.name,
            length_tokens=length_of((job.prepared or {}).get("max_length") or 1), formula_s=formula_s,
            expected_s=device.expected_s, took_s=job.gpu_seconds, formula_bytes=device.memory_bytes.total or None,
            peak_bytes=peak_bytes, at=job.updated_at,
        )
    )  # fmt: skip
    session.flush()


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Measured by estimated, of the runs on one GPU type: of the time, and of the memory where it was measured."""

    seconds: Sequence[float]
    memory: Sequence[float]


def factors(session: Session, base: JsonObject, max_length_tokens: int) -> Mapping[str, Factors]:
    """Read the runs that are like a job, by GPU type.

    Args:
        session: An open session of all tenants.
        base: The job's base, as its row has it.
        max_length_tokens: The longest row that it trains on.
    """
    columns = (MeasuredRun.gpu_type, MeasuredRun.length_tokens, MeasuredRun.formula_s, MeasuredRun.took_s,
               MeasuredRun.formula_bytes, MeasuredRun.peak_bytes)  # fmt: skip
    mine = select(*columns).where(MeasuredRun.family == family_of(base))
    rows = session.execute(mine.order_by(MeasuredRun.at.desc(), MeasuredRun.job_id).limit(MOST_READ)).all()
    found: dict[str, Factors] = {}
    for gpu_type in {row.gpu_type for row in rows}:
        here = [row for row in rows if row.gpu_type == gpu_type]
        alike = [row for row in here if row.length_tokens == length_of(max_length_tokens)]
        counted = (alike if len(alike) >= ENOUGH else here)[:MOST_RUNS]
        found[gpu_type] = Factors(
            seconds=[row.took_s / row.formula_s for row in counted],
            memory=[row.peak_bytes / row.formula_bytes for row in counted if row.peak_bytes and row.formula_bytes],
        )
    return found


def recent_factors(session: Session) -> list[float]:
    """Read by which factor the latest runs of every kind differed from the estimate that they had when they began."""
    latest = select(MeasuredRun.took_s, MeasuredRun.expected_s).order_by(MeasuredRun.at.desc()).limit(MOST_RECENT)
    return [took_s / expected_s for took_s, expected_s in session.execute(latest) if expected_s > 0]
