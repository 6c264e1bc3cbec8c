"""What a failed attempt leaves in the record, once it was ruled upon (``scheduling.retry``).

A ruling comes from above; here it is only written down: the job goes back or ends, its worker's device gets a mark, and
a micro batch that was too large for a base on a GPU type is remembered for the next job.
"""

from typing import Any, Protocol

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .attempts import end_failed
from .database import now
from .journal import event, inserter
from .registry import device_fault
from .states import Reason
from .tables import Job, SafeBatch, Worker
from .transitions import release


class Ruled(Protocol):
    """A ruling, as ``scheduling.retry`` makes it; see there."""

    @property
    def again(self) -> bool:
        """Whether the job is tried again."""
        ...

    @property
    def reason(self) -> Reason:
        """What the record says meanwhile."""
        ...

    @property
    def paid(self) -> bool:
        """Whether the attempt counts."""
        ...

    @property
    def wait_s(self) -> float:
        """Seconds until the next try."""
        ...

    @property
    def blames_device(self) -> bool:
        """Whether the worker's device gets a mark."""
        ...

    @property
    def adjusted(self) -> dict[str, Any] | None:
        """What the next attempt has to keep to."""
        ...

    @property
    def least_memory_bytes(self) -> int | None:
        """What the next device must have."""
        ...

    @property
    def words(self) -> str:
        """What was decided, for the job's events."""
        ...


def settle(session: Session, job: Job, error: dict[str, Any], ruled: Ruled, *, price_per_hour: float) -> bool:
    """Write down what becomes of a job whose attempt failed; its row is held by the caller.

    Args:
        session: An open session.
        job: The running job.
        error: code, message, hint, stage, log_tail, facts.
        ruled: What is to happen.
        price_per_hour: What an hour of the GPU costs, US dollars.
    """
    worker_id = str(job.worker_id)
    if ruled.blames_device:
        _blame(session, job, worker_id, str(error.get("message", "")))
    if ruled.words:
        event(session, job.id, job.attempt, "warning", "adjusted", ruled.words, dict(ruled.adjusted or {}))
    if ruled.adjusted:
        _remember(session, job, ruled.adjusted)
    if not ruled.again:
        end_failed(session, job, error, price_per_hour)
        return True
    return release(
        session,
        job.id,
        job.attempt,
        worker_id=worker_id,
        reason=ruled.reason,
        error=error,
        paid=ruled.paid,
        wait_s=ruled.wait_s,
        adjusted=ruled.adjusted,
        least_memory_bytes=ruled.least_memory_bytes,
        price_per_hour=price_per_hour,
    )


def memory_of(session: Session, worker_id: str) -> tuple[int, int]:
    """The memory of a worker's device, and that of the largest one that takes part, bytes."""
    own = session.scalar(select(Worker.memory_bytes).where(Worker.id == worker_id)) or 0
    largest = session.scalar(select(func.max(Worker.memory_bytes)).where(Worker.kind == "gpu")) or 0
    return own, largest


def safe_batch(session: Session, base: dict[str, Any] | None, gpu_type: str, max_length: int) -> dict[str, Any] | None:
    """What an earlier out-of-memory error taught about this base, GPU type and length (recipe.Adjusted); or None."""
    known = session.get(SafeBatch, (base_key(base), gpu_type, max_length))
    if known is None:
        return None
    return {
        "micro_batch": known.micro_batch,
        "gradient_checkpointing": known.gradient_checkpointing or None,
        "why": f"an earlier job with this base and length ran out of memory on {gpu_type}",
    }


def base_key(base: dict[str, Any] | None) -> str:
    """A base model and its revision as one word of at most 255 letters."""
    facts = base or {}
    return f"{facts.get('name')}@{facts.get('revision')}"[-255:]


def _blame(session: Session, job: Job, worker_id: str, message: str) -> None:
    if device_fault(session, worker_id, message) > 1:
        told = f"{worker_id} is unhealthy now and takes no more work: {message}"
        event(session, job.id, job.attempt, "warning", "worker_unhealthy", told, {"worker": worker_id})


def _remember(session: Session, job: Job, adjusted: dict[str, Any]) -> None:
    length = (job.resolved or job.prepared or {}).get("max_length")
    if length is None or job.gpu_type is None:
        return
    values = {
        "micro_batch": adjusted.get("micro_batch") or 1,
        "gradient_checkpointing": bool(adjusted.get("gradient_checkpointing")),
        "updated_at": now(session),
    }
    key = {"base": base_key(job.base), "gpu_type": job.gpu_type, "max_length": int(length)}
    insert = inserter(session)(SafeBatch).values(**key, **values)
    session.execute(insert.on_conflict_do_update(index_elements=list(key), set_=values))
