"""Records the consequences of a failed attempt after the ruling on it (``scheduling.retry``).

The job is tried again or ends, its worker's device gets a fault, and a micro batch that was too large for a base on a
GPU type is remembered for the next job.
"""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ...tuning.recipe import Adjusted
from ..columns import max_length_of
from ..database import now
from ..events import record_event
from ..rows import Claim, upsert_insert
from ..states import Ruling
from ..tables import Job, SafeBatch, Worker
from ..tables.types import JsonObject
from ..workers import count_device_fault, warm_key
from .transitions import fail, try_again


def settle(session: Session, job: Job, claim: Claim, error: JsonObject, ruling: Ruling) -> bool:
    """Record the consequences of a failed attempt.

    Args:
        session: An open session.
        job: The running job, its row locked by the caller.
        claim: The claim of its worker.
        error: code, message, hint, stage, log_tail, facts.
        ruling: The decision.

    Returns:
        False if the attempt belongs to another worker.
    """
    if ruling.blames_device:
        _blame_device(session, job, claim.worker_id, error)
    adjusted = ruling.adjusted
    if ruling.words:
        data = adjusted.model_dump() if adjusted else {}
        record_event(session, job.id, job.attempt, "warning", "adjusted", ruling.words, data)
    if adjusted:
        _remember_safe_batch(session, job, adjusted)
    return try_again(session, claim, error, ruling) if ruling.again else fail(session, claim, error)


def memory_of(session: Session, worker_id: str) -> tuple[int, int]:
    """Return the memory of a worker's device and that of the largest registered device, in bytes."""
    own = session.scalar(select(Worker.memory_bytes).where(Worker.id == worker_id)) or 0
    largest = session.scalar(select(func.max(Worker.memory_bytes)).where(Worker.kind == "gpu")) or 0
    return own, largest


def safe_batch(session: Session, base: JsonObject | None, gpu_type: str, max_length: int) -> Adjusted | None:
    """Return the limits that an earlier out-of-memory error of this base, GPU type and length set; None if none did."""
    known = session.get(SafeBatch, (base_key(base), gpu_type, max_length))
    if known is None:
        return None
    return Adjusted(
        micro_batch=known.micro_batch,
        gradient_checkpointing=known.gradient_checkpointing or None,
        why=f"an earlier job with this base and length ran out of memory on {gpu_type}",
    )


def base_key(base: JsonObject | None) -> str:
    """Join a base model and its revision into one key of at most 255 characters."""
    facts = base or {}
    return warm_key(str(facts.get("name")), str(facts.get("revision")))


def _blame_device(session: Session, job: Job, worker_id: str, error: JsonObject) -> None:
    message = str(error.get("message", ""))
    facts: JsonObject = error.get("facts") or {}
    if count_device_fault(session, worker_id, message, str(facts.get("host", ""))) > 1:
        words = f"{worker_id} is unhealthy now and takes no more work: {message}"
        record_event(session, job.id, job.attempt, "warning", "worker_unhealthy", words, {"worker": worker_id})


def _remember_safe_batch(session: Session, job: Job, adjusted: Adjusted) -> None:
    length = max_length_of(job)
    if length is None or job.gpu_type is None:
        return
    values = {
        "micro_batch": adjusted.micro_batch or 1,
        "gradient_checkpointing": bool(adjusted.gradient_checkpointing),
        "updated_at": now(session),
    }
    key = {"base": base_key(job.base), "gpu_type": job.gpu_type, "max_length": length}
    insert = upsert_insert(session, SafeBatch).values(**key, **values)
    session.execute(insert.on_conflict_do_update(index_elements=list(key), set_=values))
