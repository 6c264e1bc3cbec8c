"""Words for a tenant the reason why its job waits, from the reason's code and facts, not from the operator's sentence.

A sentence names what the job asked for and the tenant's own limits. It names no worker, no setting and no command, and
not the reasons why other workers take no work.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from ...models.queue.lane_reasons import needed_bytes
from ...models.tables import Job, LaneReason
from ...models.tables.types import JsonObject
from ...scheduling.explain import GIB, Code

Facts = Mapping[str, Any]
TURN = "it waits for its turn"


def wait_words(job: Job, lane: LaneReason | None, at: datetime) -> str:
    """Return the sentence of a waiting job.

    Args:
        job: A pending job.
        lane: The reason of its lane; None where the reason stands in the job's row.
        at: The present time.
    """
    if lane is not None:
        return words_of(lane.code, {"need_bytes": needed_bytes(job), **_known(lane.facts)})
    if job.limited is not None:
        return words_of(str(job.limited.get("code")), job.limited)
    if job.paused:
        return words_of(Code.PAUSED, {})
    if job.not_before is not None and job.not_before > at:
        return words_of(Code.BACKOFF, {"wait_s": (job.not_before - at).total_seconds()})
    return TURN


def words_of(code: str, facts: Facts) -> str:
    """Return the sentence of a reason; a code without a sentence of its own has the general one."""
    found = _WORDS.get(code)
    return found(facts) if found is not None else TURN


def _known(facts: JsonObject) -> Facts:
    return {name: value for name, value in facts.items() if value is not None}


def _always(words: str) -> Callable[[Facts], str]:
    return lambda _facts: words


def _type(facts: Facts) -> str:
    return str(facts.get("gpu_type") or "suitable")


def _no_slot(words: str) -> Callable[[Facts], str]:
    return lambda facts: words.format(kind=f"{_type(facts)} device")


def _quota(facts: Facts) -> str:
    return f"all {facts.get('limit', 0)} devices that the tenant may use at once are in use"


def _nothing_fits(facts: Facts) -> str:
    need, largest = facts.get("need_bytes") or 0, facts.get("largest_bytes") or 0
    return f"needs about {need / GIB:.1f} GiB of device memory; the largest device has {largest / GIB:.0f} GiB"


def _no_label(facts: Facts) -> str:
    return (
        f"no {_type(facts)} device that takes work carries the labels {str(facts.get('labels', '')).replace(',', ', ')}"
    )


def _busy(facts: Facts) -> str:
    kind = f"{facts['gpu_type']} devices" if facts.get("gpu_type") else "places for preparing data"
    ahead = facts.get("ahead")
    return f"all {kind} are in use" + ("" if ahead is None else f"; {ahead} ahead" if ahead else "; next in line")


def _backoff(facts: Facts) -> str:
    return f"a step failed; it is tried again in {max(1, round(facts.get('wait_s', 0)))} s"


def _max_jobs(facts: Facts) -> str:
    return f"{facts.get('working', 0)} of the tenant's jobs are worked on, and {facts.get('limit', 0)} may be at once"


def _month(what: str) -> Callable[[Facts], str]:
    def words(facts: Facts) -> str:
        limit, spent, held, wanted = (float(facts.get(name) or 0) for name in ("limit", "spent", "held", "wanted"))
        return (
            f"needs about {wanted:.4g} {what}; of this month's {limit:g}, {spent:.4g} are used and {held:.4g} are held "
            "by other jobs of the tenant"
        )

    return words


def _storage(facts: Facts) -> str:
    return f"the tenant stores {facts.get('stored', 0):,} bytes and may store {facts.get('limit', 0):,}"


def _job_budget(facts: Facts) -> str:
    return f"the job's budget of {float(facts.get('limit') or 0):g} is used; resume it with a larger one to go on"


_WORDS: Mapping[str, Callable[[Facts], str]] = {
    Code.QUOTA: _quota,
    Code.NO_GPU_WORKER: _always("no device is available at the moment"),
    Code.NO_GPU_WORKER_READY: _always("no device takes work at the moment"),
    Code.NOTHING_FITS: _nothing_fits,
    Code.NO_WORKER: _no_slot("no {kind} is available at the moment"),
    Code.NO_WORKER_READY: _no_slot("no {kind} takes work at the moment"),
    Code.RESERVED: _no_slot("no {kind} is open to the job"),
    Code.NO_LABEL: _no_label,
    Code.BUSY: _busy,
    Code.PAUSED: _always("paused; resume the job to let it go on"),
    Code.BACKOFF: _backoff,
    Code.MAX_JOBS: _max_jobs,
    Code.GPU_MINUTES: _month("device minutes"),
    Code.BUDGET: _month("of the budget"),
    Code.STORAGE: _storage,
    Code.JOB_BUDGET: _job_budget,
}
"""The sentence of each code."""
