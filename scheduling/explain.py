"""Says why a job waits: a reason is a code with facts, and the sentence for people is made from the two.

A program branches on ``Reason.code`` and reads ``Reason.facts``, which are plain JSON; a person reads
``Reason.sentence()``, which also says what to do about it. The record keeps a reason for each lane of jobs
(``LaneReason``); position and expected start are computed when somebody asks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ..models.queue.wait_words import NEED, backoff_words, job_budget_words, paused_words

GIB = 2**30

Fact = str | int | float | None | Sequence[str] | Mapping[str, int]


class Code(StrEnum):
    """The kinds of reasons for which a job waits."""

    QUOTA = "quota"
    """The tenant holds as many GPU slots as it may."""
    NO_GPU_WORKER = "no_gpu_worker"
    """No GPU worker is online."""
    NO_GPU_WORKER_READY = "no_gpu_worker_ready"
    """GPU workers are online, and none of them takes work."""
    NOTHING_FITS = "nothing_fits"
    """No device that is online and takes work has the memory."""
    NO_WORKER = "no_worker"
    """No worker of the type (or no prep worker) is online."""
    NO_WORKER_READY = "no_worker_ready"
    """Workers of the type are online, and none of them takes work."""
    RESERVED = "reserved"
    """Every worker of the type is reserved for another tenant."""
    NO_LABEL = "no_label"
    """No worker that is online and takes work carries the labels that the job asks for."""
    BUSY = "busy"
    """Every slot of the type is taken."""
    PAUSED = "paused"
    """A person paused the job."""
    BACKOFF = "backoff"
    """The job failed a moment ago and is tried again after a while."""
    MAX_JOBS = "max_jobs"
    """The tenant has as many jobs worked on as it may."""
    GPU_MINUTES = "gpu_minutes"
    """The month's device minutes of the tenant have no room for the job."""
    BUDGET = "budget"
    """The month's money of the tenant has no room for the job."""
    STORAGE = "storage_bytes"
    """The tenant stores as much as it may."""
    JOB_BUDGET = "job_budget"
    """The job has used its own budget."""


@dataclass(frozen=True, slots=True)
class Reason:
    """The reason why a job waits.

    Attributes:
        code: The kind.
        facts: The values of that kind's sentence, by name; plain JSON.

    Example:
        ``Reason(Code.QUOTA, {"tenant": "shop", "limit": 2}).sentence()`` is
        ``tenant shop holds all 2 of its GPU slots (max_gpus_per_tenant)``.
    """

    code: Code
    facts: Mapping[str, Fact]

    def sentence(self) -> str:
        """Makes the sentence that people read."""
        return _SENTENCES[self.code](**self.facts)


def quota(tenant: str, limit: int) -> Reason:
    """Gives the reason of a tenant that holds as many slots as it may."""
    return Reason(Code.QUOTA, {"tenant": tenant, "limit": limit})


def nothing_fits(
    memory_bytes: int | None,
    online: Mapping[str, int],
    obstacles: Sequence[str] = (),
    *,
    labels: str = "",
    special: bool = False,
) -> Reason:
    """Gives the reason of an ``auto`` job for which no device that takes work has the memory.

    Args:
        memory_bytes: Device memory that the job needs at least; None stands for every job that needs more than there
            is, and the sentence then has ``{need}`` in the number's place.
        online: Device memory in bytes by GPU type, of the workers that take the job's work.
        obstacles: The reason why each of the other GPU workers takes no work.
        labels: The labels that the job asks for.
        special: True if there are workers, all of them reserved for others or without the labels.
    """
    if online:
        largest = max(online, key=lambda name: online[name])
        facts = {"need_bytes": memory_bytes, "largest_type": largest, "largest_bytes": online[largest]}
        return Reason(Code.NOTHING_FITS, facts)
    if special:
        return _not_for_it(None, labels)
    if obstacles:
        return Reason(Code.NO_GPU_WORKER_READY, {"obstacles": list(obstacles)})
    return Reason(Code.NO_GPU_WORKER, {})


def busy(
    gpu_type: str | None,
    *,
    total: int,
    used: int,
    ahead: int | None,
    obstacles: Sequence[str] = (),
    others: int = 0,
    labels: str = "",
) -> Reason:
    """Gives the reason of a job for which no slot of its type is free.

    Args:
        gpu_type: The type; None for a prep slot.
        total: Slots of the workers that take the job's work.
        used: Slots that are taken.
        ahead: Waiting jobs whose turn comes before; None where the reason is that of many jobs.
        obstacles: The reason why each of the other workers of the type takes no work.
        others: Slots of the type that are reserved for other tenants, or do not carry the labels.
        labels: The labels that the job asks for.
    """
    if total:
        return Reason(Code.BUSY, {"gpu_type": gpu_type, "total": total, "used": used, "ahead": ahead})
    if others:
        return _not_for_it(gpu_type, labels)
    if obstacles:
        return Reason(Code.NO_WORKER_READY, {"gpu_type": gpu_type, "obstacles": list(obstacles)})
    return Reason(Code.NO_WORKER, {"gpu_type": gpu_type})


def _not_for_it(gpu_type: str | None, labels: str) -> Reason:
    if labels:
        return Reason(Code.NO_LABEL, {"gpu_type": gpu_type, "labels": labels})
    return Reason(Code.RESERVED, {"gpu_type": gpu_type})


def paused(job_id: str) -> Reason:
    """Gives the reason of a job that a person paused."""
    return Reason(Code.PAUSED, {"job_id": job_id})


def backoff(wait_s: float, faults: Mapping[str, int]) -> Reason:
    """Gives the reason of a job that failed a moment ago and is tried again in ``wait_s`` seconds.

    Args:
        wait_s: Seconds until then.
        faults: The number of the job's failures so far, by error code.
    """
    return Reason(Code.BACKOFF, {"wait_s": wait_s, "faults": dict(faults)})


def max_jobs(limit: int, working: int) -> Reason:
    """Gives the reason of a tenant that has as many jobs worked on as it may."""
    return Reason(Code.MAX_JOBS, {"limit": limit, "working": working})


def gpu_minutes(*, limit: float, spent: float, held: float, wanted: float) -> Reason:
    """Gives the reason of a job for which the month's device minutes have no room.

    Args:
        limit: The minutes of the month.
        spent: The minutes that were charged.
        held: The minutes that unfinished jobs hold.
        wanted: The minutes that this job needs by its estimate.
    """
    facts = {"limit": limit, "spent": round(spent, 3), "held": round(held, 3), "wanted": round(wanted, 3)}
    return Reason(Code.GPU_MINUTES, facts)


def budget(*, limit: float, spent: float, held: float, wanted: float) -> Reason:
    """Gives the reason of a job for which the month's money has no room; the arguments are ``gpu_minutes``'s."""
    facts = {"limit": limit, "spent": round(spent, 6), "held": round(held, 6), "wanted": round(wanted, 6)}
    return Reason(Code.BUDGET, facts)


def storage(limit: int, stored: int) -> Reason:
    """Gives the reason of a tenant that stores as much as it may."""
    return Reason(Code.STORAGE, {"limit": limit, "stored": stored})


def job_budget(job_id: str, *, cost: float, budget: float) -> Reason:
    """Gives the reason of a job that has used its own budget."""
    return Reason(Code.JOB_BUDGET, {"job_id": job_id, "cost": round(cost, 6), "limit": budget})


def limited(facts: Mapping[str, Fact]) -> Reason:
    """Gives the reason that the record keeps as ``Job.limited``: the code beside its facts."""
    return Reason(Code(str(facts["code"])), {name: value for name, value in facts.items() if name != "code"})


def _quota(*, tenant: str, limit: int) -> str:
    return f"tenant {tenant} holds all {limit} of its GPU slots (max_gpus_per_tenant)"


def _no_gpu_worker() -> str:
    return "no GPU worker is online; start one with `celery -A celora.workers worker --gpu 0` or `celora node`"


def _no_gpu_worker_ready(*, obstacles: Sequence[str]) -> str:
    return f"no GPU worker takes work: {'; '.join(obstacles)}"


def _nothing_fits(*, need_bytes: int | None, largest_type: str, largest_bytes: int) -> str:
    need = NEED if need_bytes is None else f"{need_bytes / GIB:.1f} GiB"
    largest = f"{largest_bytes / GIB:.0f} GiB"
    return f"needs about {need} of device memory; the largest online is {largest_type} with {largest}"


def _no_worker(*, gpu_type: str | None) -> str:
    if gpu_type is None:
        return "no prep worker is online; start one with `celora node`"
    return (
        f"no worker of type {gpu_type} is online; start one with `celery -A celora.workers worker --gpu 0` "
        "on such a machine"
    )


def _no_worker_ready(*, gpu_type: str | None, obstacles: Sequence[str]) -> str:
    return f"no {gpu_type or 'prep'} worker takes work: {'; '.join(obstacles)}"


def _reserved(*, gpu_type: str | None) -> str:
    return f"every {gpu_type or 'GPU'} worker that is online is reserved for another tenant"


def _no_label(*, gpu_type: str | None, labels: str) -> str:
    return f"no {gpu_type or 'GPU'} worker that takes work carries the labels {labels.replace(',', ', ')}"


def _busy(*, gpu_type: str | None, total: int, used: int, ahead: int | None) -> str:
    what = "prep" if gpu_type is None else f"gpu.{gpu_type}"
    taken = f"all {total} {what} slots are taken ({used} in use)"
    if ahead is None:
        return taken
    return f"{taken}; " + (f"{ahead} {'job' if ahead == 1 else 'jobs'} ahead" if ahead else "next in line")


def _max_jobs(*, limit: int, working: int) -> str:
    return f"{working} of the tenant's jobs are worked on, and {limit} may be at once"


def _gpu_minutes(*, limit: float, spent: float, held: float, wanted: float) -> str:
    return (
        f"needs about {wanted:.4g} device minutes; of this month's {limit:g}, {spent:.4g} are used and {held:.4g} are "
        "held by other jobs"
    )


def _budget(*, limit: float, spent: float, held: float, wanted: float) -> str:
    return (
        f"needs about {wanted:.4g} of the budget; of this month's {limit:g}, {spent:.4g} are used and {held:.4g} are "
        "held by other jobs"
    )


def _storage(*, limit: int, stored: int) -> str:
    return f"the tenant stores {stored:,} bytes and may store {limit:,}"


_SENTENCES: Mapping[Code, Callable[..., str]] = {
    Code.QUOTA: _quota,
    Code.NO_GPU_WORKER: _no_gpu_worker,
    Code.NO_GPU_WORKER_READY: _no_gpu_worker_ready,
    Code.NOTHING_FITS: _nothing_fits,
    Code.NO_WORKER: _no_worker,
    Code.NO_WORKER_READY: _no_worker_ready,
    Code.RESERVED: _reserved,
    Code.NO_LABEL: _no_label,
    Code.BUSY: _busy,
    Code.PAUSED: paused_words,
    Code.BACKOFF: backoff_words,
    Code.MAX_JOBS: _max_jobs,
    Code.GPU_MINUTES: _gpu_minutes,
    Code.BUDGET: _budget,
    Code.STORAGE: _storage,
    Code.JOB_BUDGET: job_budget_words,
}
"""The sentence of each code; the keywords of the function are the code's facts."""
