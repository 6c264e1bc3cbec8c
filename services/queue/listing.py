"""Lists who waits, with the place in the queue, the expected start and the reason of each job."""

from collections.abc import Iterable, Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from ...models import queries
from ...models.database import get_database, now
from ...models.queries import LARGE
from ...models.queue.groups import EXACT, all_heads
from ...models.queue.lane_reasons import WaitReason, wait_reasons
from ...models.queue.waiting import Head, Part, heads, lanes
from ...models.scope.scope import Scope
from ...models.states import Stage, Status
from ...models.tables import Job
from ...settings.settings import get_settings
from ..tenants.wait_words import words_of
from .explanations import Entry
from .line import Line, read_line
from .sentences import share_used, turn_words

__all__ = ["list_queue", "place_of"]

TENANTS_FACTS = frozenset(
    {
        "gpu_type", "labels", "largest_bytes", "largest_type", "limit", "need_bytes", "not_before", "faults", "spent",
        "held", "stored", "wanted", "working", "cost", "job_id",
    }
)  # fmt: skip
"""Facts of a reason that a tenant reads."""
OTHERS = "other tenants"
"""Stands for the names of other tenants in what one tenant reads."""


def list_queue(*, limit: int = 50, scope: Scope = Scope.everything) -> list[Entry]:
    """Lists the jobs that wait, the next to start first; those that wait for no slot (paused, a limit) come last.

    Args:
        limit: Jobs that are listed at most.
        scope: The caller's; one tenant sees its own jobs alone.
    """
    with get_database().session(Scope.everything) as session:
        wanted = _first(session, scope.tenant, limit)
        line = read_line(session, get_settings(), wanted)
        placed = sorted((start.position, row.id) for row in wanted if (start := line.starts.get(row.id)))
        ids = [job_id for _, job_id in placed][:limit]
        ids += _without_slot(session, scope.tenant, limit - len(ids))
        return entries(session, line, ids, scope)


def place_of(job_id: str, *, scope: Scope = Scope.everything) -> Entry | None:
    """Returns the place of one job in the queue; None for a job that does not wait.

    Raises:
        NotFoundError: There is no such job.
    """
    with get_database().session(scope) as session:
        job = queries.get_job(session, job_id)
        if job.status is not Status.PENDING:
            return None
    with get_database().session(Scope.everything) as session:
        line = read_line(session, get_settings(), heads_of(session, [job_id]))
        return next(iter(entries(session, line, [job_id], scope)), None)


def heads_of(session: Session, job_ids: Iterable[str]) -> list[Head]:
    """Read the columns of some waiting jobs that decide their turn."""
    rows = select(*(getattr(Job, name) for name in Head._fields)).where(
        Job.id.in_(list(job_ids)), Job.status == Status.PENDING, Job.stage != Stage.PUBLISH, Job.paused.is_(False),
        Job.limited.is_(None),
    )  # fmt: skip
    return [Head(*row) for row in session.execute(rows)]


def _first(session: Session, tenant: str | None, limit: int) -> list[Head]:
    """Read the jobs among which the first of the queue are: all of a short one, of a long one those of each lane."""
    at = now(session)
    rows = all_heads(session, at)
    if rows is None:
        places = [place for place in lanes(session) if tenant in (None, place[-1]) and place[0] is not Stage.PUBLISH]
        most = min(limit, max(1, EXACT // max(1, len(places))))
        rows = heads(session, dict.fromkeys(places, Part(most)), at, aged_before=at)[0]
    return [row for row in rows if tenant in (None, row.tenant)]


def _without_slot(session: Session, tenant: str | None, limit: int) -> list[str]:
    """List pending jobs that wait for something else than a slot, the oldest first."""
    if limit <= 0:
        return []
    own = Job.paused.is_(True) | Job.limited.is_not(None) | (Job.not_before > now(session))
    rows = select(Job.id).where(Job.status == Status.PENDING, own).order_by(Job.created_at, Job.id).limit(limit)
    return list(session.scalars(rows if tenant is None else rows.where(Job.tenant == tenant)))


def entries(session: Session, line: Line, job_ids: list[str], scope: Scope) -> list[Entry]:
    """Return the entries of some pending jobs, in the order of their ids in the list."""
    rows = {row.id: row for row in session.scalars(select(Job).options(*LARGE).where(Job.id.in_(job_ids)))}
    jobs = [rows[job_id] for job_id in job_ids if job_id in rows and rows[job_id].status is Status.PENDING]
    reasons = wait_reasons(session, jobs)
    return [_entry(job, line, worded(reasons[job.id], scope), scope) for job in jobs]


def worded(reason: WaitReason, scope: Scope) -> WaitReason:
    """Return a reason as a caller may read it: a tenant reads nothing of the installation and of other tenants."""
    if scope.tenant is None:
        return reason
    facts = {name: value for name, value in reason.facts.items() if name in TENANTS_FACTS}
    return WaitReason(code=reason.code, facts=facts, sentence=words_of(reason.code, reason.facts))


def _entry(job: Job, line: Line, reason: WaitReason, scope: Scope) -> Entry:
    place, used = line.place(job.id), share_used(line, job.tenant)
    ahead = seen_by(scope, job.tenant, place.ahead) if place else {}
    turn = turn_words(line, job, place, reason.code, ahead=ahead, scope=scope) if place else ""
    return Entry(
        id=job.id,
        tenant=job.tenant,
        stage=job.stage,
        gpu=job.gpu,
        job_class=job.job_class,
        priority=job.priority,
        labels=job.labels.split(",") if job.labels else [],
        recovered=job.recovered,
        created_at=job.created_at,
        waited_s=round(max(0.0, (line.facts.at - job.created_at).total_seconds()), 3),
        position=place.position if place else None,
        ahead=ahead,
        earliest_at=place.earliest_at if place else None,
        latest_at=place.latest_at if place else None,
        code=reason.code,
        facts=reason.facts,
        reason="; ".join(filter(None, [reason.sentence, turn])),
        share_used=None if used is None else round(used, 4),
    )


def seen_by(scope: Scope, tenant: str, counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts by tenant as a caller may see them: in the scope of one tenant the others are one."""
    if scope.tenant is None:
        return dict(sorted(counts.items()))
    found = {tenant: counts.get(tenant, 0), OTHERS: sum(n for name, n in counts.items() if name != tenant)}
    return {name: count for name, count in found.items() if count}
