"""Keeps the reason why each lane of jobs waits, and gives a job the sentence of its lane."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from ..database import now
from ..scope.session import KEPT
from ..states import Status
from ..tables import Job, LaneReason
from ..tables.types import JsonObject
from .wait_words import NEED
from .waiting import LanePlace

GIB = 2**30
KEY: tuple[InstrumentedAttribute[Any], ...] = (
    LaneReason.stage,
    LaneReason.job_class,
    LaneReason.gpu,
    LaneReason.labels,
    LaneReason.tenant,
    LaneReason.above_bytes,
)


_KNOWN = select(*KEY, LaneReason.sentence)
_OF_TENANTS = (
    select(LaneReason)
    .where(LaneReason.tenant.in_(bindparam("tenants", expanding=True)))
    .execution_options(**{KEPT: True})
)


@dataclass(frozen=True, kw_only=True)
class LaneWait:
    """Why the jobs of a lane wait that need more than ``above_bytes`` of memory."""

    above_bytes: int
    code: str
    facts: JsonObject
    sentence: str


def record_lanes(session: Session, waits: Mapping[LanePlace, Iterable[LaneWait]]) -> int:
    """Record the reasons of all lanes: those that changed are written, those of empty lanes deleted.

    Returns:
        The number of rows that were written or deleted.
    """
    known = {tuple(row[:-1]): row[-1] for row in session.execute(_KNOWN)}
    wanted = {(*place, each.above_bytes): each for place, reasons in waits.items() for each in reasons}
    changed = {key: each for key, each in wanted.items() if known.get(key) != each.sentence}
    gone = known.keys() - wanted.keys()
    at = now(session) if changed else None
    for key, each in changed.items():
        lane = {column.key: value for column, value in zip(KEY, key, strict=True)}
        session.merge(LaneReason(**lane, code=each.code, facts=each.facts, sentence=each.sentence, since=at))
    for key in gone:
        session.delete(session.get_one(LaneReason, key))
    session.flush()
    return len(changed) + len(gone)


@dataclass(frozen=True, kw_only=True)
class WaitReason:
    """Why one job waits: the code that programs branch on, its facts, and the sentence; empty until it is known."""

    code: str
    facts: JsonObject
    sentence: str


def wait_sentences(session: Session, jobs: Iterable[Job]) -> dict[str, str]:
    """Return the sentence of each job that waits, by its id."""
    return {job_id: reason.sentence for job_id, reason in wait_reasons(session, jobs).items()}


def wait_reasons(session: Session, jobs: Iterable[Job]) -> dict[str, WaitReason]:
    """Return the reason of each job that waits, by its id.

    A job that is paused, rests after a failure, or waits for a limit has a sentence of its own in its row. So has a job
    of which no round has judged the lane yet.
    """
    found: dict[str, WaitReason] = {}
    for job, row in waiting_lanes(session, jobs):
        if row is None:
            code, facts = _own(job)
            found[job.id] = WaitReason(code=code, facts=facts, sentence=job.wait_reason)
            continue
        need = needed_bytes(job)
        facts = {**row.facts, "need_bytes": need} if NEED in row.sentence else row.facts
        sentence = row.sentence.replace(NEED, f"{need / GIB:.1f} GiB")
        found[job.id] = WaitReason(code=row.code, facts=facts, sentence=sentence)
    return found


def _own(job: Job) -> tuple[str, JsonObject]:
    """Return code and facts of the reason that stands in the job's own row."""
    if job.limited is not None:
        return str(job.limited.get("code", "")), {name: job.limited[name] for name in job.limited if name != "code"}
    if job.paused:
        return "paused", {"job_id": job.id}
    if job.not_before is not None:
        return "backoff", {"not_before": job.not_before.isoformat(), "faults": dict(job.faults or {})}
    return "", {}


def waiting_lanes(session: Session, jobs: Iterable[Job]) -> list[tuple[Job, LaneReason | None]]:
    """Return the jobs that wait, each with the reason of its lane; None where the reason stands in the job's row."""
    waiting = [job for job in jobs if job.status is Status.PENDING]
    if not waiting:
        return []
    at = now(session)
    tenants = {job.tenant for job in waiting}
    reasons: dict[LanePlace, list[LaneReason]] = {}
    for row in session.scalars(_OF_TENANTS, {"tenants": sorted(tenants)}):
        reasons.setdefault(_place(row), []).append(row)
    found: list[tuple[Job, LaneReason | None]] = []
    for job in waiting:
        own = job.paused or job.limited is not None or (job.not_before is not None and job.not_before > at)
        found.append((job, None if own else _of(job, reasons.get(_place(job), []))))
    return found


def _of(job: Job, rows: list[LaneReason]) -> LaneReason | None:
    need = needed_bytes(job)
    below = [row for row in rows if row.above_bytes == 0 or row.above_bytes < need]
    return max(below, key=lambda row: row.above_bytes, default=None)


def needed_bytes(job: Job) -> int:
    """Return the device memory that a job needs at least."""
    return max(job.memory_bytes or 0, job.least_memory_bytes or 0)


def _place(row: Job | LaneReason) -> LanePlace:
    return (row.stage, row.job_class, row.gpu, row.labels, row.tenant)
