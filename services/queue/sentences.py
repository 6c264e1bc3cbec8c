"""Words the turn of a waiting job: who is ahead, when a slot is free, and how much of its share its tenant has used.

The sentences stand behind the reason of the job's lane. They are made when somebody asks, and a tenant reads them too:
they name other tenants to operators alone.
"""

from collections.abc import Iterable, Mapping

from ...models.scope.scope import Scope
from ...models.tables import Job
from ...scheduling.explain import Code
from ...scheduling.records import Waiting
from .line import Line, Place

MINUTE_S, HOUR_S = 60.0, 3600.0
MOST_NAMED = 3
"""Tenants that the sentence names; it sums up the others."""


def turn_words(line: Line, job: Job, place: Place, code: str, *, ahead: Mapping[str, int], scope: Scope) -> str:
    """Return the sentences about a job's turn, joined by semicolons; empty where there is nothing to add.

    Args:
        line: The queue of the moment.
        job: A job that waits for a slot.
        place: Its place.
        code: The code of the reason of its lane.
        ahead: The jobs before it by tenant, as the caller may see them.
        scope: The caller's.
    """
    waiting = next((group.job for group in line.groups if group.named and group.job.id == job.id), None)
    if waiting is None:
        return ""
    if place.earliest_at is None:
        return _elsewhere(line, waiting)
    if code != Code.BUSY:
        return ""
    whose = "your team" if scope.tenant is not None else f"tenant {job.tenant}"
    parts = [_ahead(ahead, job.tenant, whose), _next_free(line, waiting), _share(line, job.tenant, whose)]
    return "; ".join(filter(None, parts))


def share_used(line: Line, tenant: str) -> float | None:
    """Return the use of a tenant as a part of the use that its weight gives it; None where nobody competes with it.

    The use is that by which the next turn is decided: of late, decayed, and with the jobs that hold a slot.
    """
    names = {lane.tenant for lane in line.facts.lanes} | {holding.tenant for holding in line.facts.holdings}
    weights = {name: line.shares.account(name).weight for name in names | {tenant}}
    used = {name: line.shares.level(name)[0] * weight for name, weight in weights.items()}
    total = sum(used.values())
    return used[tenant] / (total * weights[tenant] / sum(weights.values())) if len(weights) > 1 and total else None


def _ahead(ahead: Mapping[str, int], tenant: str, whose: str) -> str:
    """Return who comes first, the tenants with the most jobs by name."""
    if not ahead:
        return "next in line"
    ordered = sorted(ahead.items(), key=lambda one: (-one[1], one[0]))
    rest = sum(count for _, count in ordered[MOST_NAMED:])
    named = [f"{_jobs(count)} of {whose if name == tenant else name}" for name, count in ordered[:MOST_NAMED]]
    named += [f"{rest:,} of others"] if rest else []
    return f"{', '.join(named)} {'is' if sum(ahead.values()) == 1 else 'are'} ahead"


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count:,} jobs"


def _next_free(line: Line, job: Waiting) -> str:
    """Return when the next slot of a type that the job may take is free; empty where nobody can say."""
    soonest = min(
        ((seconds, name) for name in _types(line, job) if (seconds := line.slots.next_free_s(name)) is not None),
        default=None,
    )
    if soonest is None or not soonest[0]:
        return ""
    return f"the next {soonest[1]} is expected free in about {_about(soonest[0])}"


def _types(line: Line, job: Waiting) -> Iterable[str]:
    if not job.stage.on_gpu:
        return []
    return line.slots.fitting(job) if job.gpu == "auto" else [job.gpu]


def _share(line: Line, tenant: str, whose: str) -> str:
    used = share_used(line, tenant)
    return "" if used is None else f"{whose} has used {used:.0%} of its share of late"


def _elsewhere(line: Line, job: Waiting) -> str:
    """Return where the job would start now if it named no GPU type; empty where nowhere."""
    if not job.stage.on_gpu or job.gpu == "auto":
        return ""
    fitting = (name for name in line.slots.fitting(job) if line.slots.free(name) and name != job.gpu)
    name = next(fitting, None)
    return f"`gpu: auto` would start on {name} now" if name is not None else ""


def _about(seconds: float) -> str:
    if seconds < HOUR_S:
        return f"{max(1, round(seconds / MINUTE_S))} min"
    return f"{seconds / HOUR_S:.1f} h"
