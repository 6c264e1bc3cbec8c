"""Words the reasons for a wait that no scheduling round finds: a person's pause, and a rest after a failure.

The transitions write these sentences into the job's row. A reason that a round finds holds for a whole lane of jobs
(``LaneReason``).
"""

from collections.abc import Mapping
from typing import Any

NEED = "{need}"
"""Stands in a lane's sentence for the memory that the job needs."""


def paused_words(*, job_id: str) -> str:
    """Return the sentence of a paused job."""
    return f"paused; `celora resume {job_id}` lets it go on"


def backoff_words(*, wait_s: float, faults: Mapping[str, int]) -> str:
    """Return the sentence of a job that failed a moment ago.

    Args:
        wait_s: Seconds until it is tried again.
        faults: The number of the job's failures so far, by error code.
    """
    counts = ", ".join(f"{code} x{count}" for code, count in faults.items())
    return f"tried again in {max(1, round(wait_s))} s" + (f" (so far: {counts})" if counts else "")


def job_budget_words(*, job_id: str, cost: float, limit: float) -> str:
    """Return the sentence of a job that its own budget paused."""
    return (
        f"its budget of {limit:g} is used ({cost:.4g}); `celora resume {job_id} --budget {2 * max(cost, limit):.4g}` "
        "lets it go on"
    )


def pause_words(job_id: str, limited: Mapping[str, Any] | None) -> str:
    """Return the sentence of a job that begins to pause: its own budget's, or that of a pause which a person ends."""
    if limited is None or limited.get("code") != "job_budget":
        return paused_words(job_id=job_id)
    return job_budget_words(job_id=job_id, cost=limited["cost"], limit=limited["limit"])
