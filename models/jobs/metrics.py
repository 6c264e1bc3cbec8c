"""Sums the whole record for monitoring, in a few statements at any number of jobs.

Unusual: a ``Reader`` that its caller keeps reads the rows that only grow in number (events, ended jobs) once, each time
from the end of its last read; every other statement touches the unfinished jobs alone, by their index.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from .. import queries
from ..columns import JobError
from ..database import now
from ..states import GPU_QUEUES, LIVE, Status, common_queue
from ..tables import Announcement, Attempt, Beacon, Event, Job, Worker
from ..tables.types import JsonObject
from ..views import JobView

SETTLED_S = 15.0
"""Age at which an event is read. Events become visible in the order of their commits, not of their ids; once an event
is this old, no event with a smaller id is still to come."""

PAGE = 20_000
COUNTED = ("stage_started", "preempt_requested", "budget_reached", "limit_reached", *queries.STAGE_ENDS)


@dataclass(kw_only=True)
class Unfinished:
    """The unfinished jobs: counts by (queue, status), the longest wait by queue in seconds, the running jobs."""

    at: datetime
    counts: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    oldest_s: dict[str, float] = field(default_factory=dict[str, float])
    paused: int = 0
    running: list[JobView] = field(default_factory=list[JobView])


@dataclass(kw_only=True)
class Totals:
    """Sums since the record began.

    Attributes:
        ended: Jobs by (GPU type, status).
        failures: Failed jobs by error code.
        cost: US dollars by (tenant, GPU type), of ended jobs.
        gpu_seconds: The same, seconds.
        stages: Seconds of each finished or interrupted run of a stage, with stage and outcome.
        events: Events by kind.
        retries: Tries that failed and were made again, by error code.
    """

    ended: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    failures: Counter[str] = field(default_factory=Counter[str])
    cost: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    gpu_seconds: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    stages: list[tuple[str, str, float]] = field(default_factory=list[tuple[str, str, float]])
    events: Counter[str] = field(default_factory=Counter[str])
    retries: Counter[str] = field(default_factory=Counter[str])


class Reader:
    """Adds up events and ended jobs, each time from the end of its last read.

    Args:
        settled_s: Age in seconds at which an event or a job's end is read.
    """

    def __init__(self, settled_s: float = SETTLED_S) -> None:
        self.totals = Totals()
        self._settled_s = settled_s
        self._event_id = 0
        self._finished_at: datetime | None = None
        self._at_mark: set[str] = set()

    def read(self, session: Session) -> Totals:
        """Read the new rows and return the sums; ``totals.stages`` holds the new runs alone."""
        until = now(session) - timedelta(seconds=self._settled_s)
        self.totals.stages = []
        while self._events(session, until):
            pass
        self._jobs(session, until)
        return self.totals

    def _events(self, session: Session, until: datetime) -> bool:
        """Read a page of the events that count; return True if there may be more."""
        wanted = select(Event.id, Event.at, Event.kind, Event.data).where(Event.id > self._event_id)
        page = session.execute(wanted.where(Event.kind.in_(COUNTED)).order_by(Event.id).limit(PAGE)).all()
        for event_id, at, kind, data in page:
            if at > until:
                return False
            self._event_id = event_id
            self._take(kind, data or {})
        return len(page) == PAGE

    def _take(self, kind: str, data: JsonObject) -> None:
        self.totals.events[kind] += 1
        if kind in queries.STAGE_ENDS and "stage" in data and "seconds" in data:
            outcome = "done" if kind == "stage_finished" else kind
            self.totals.stages.append((str(data["stage"]), outcome, float(data["seconds"])))
        if kind == "retrying":
            self.totals.retries[_code(data.get("error"))] += 1

    def _jobs(self, session: Session, until: datetime) -> None:
        """Add the jobs that ended since the last read; jobs that ended at the very moment of its mark count once."""
        wanted = select(Job.id, Job.status, Job.gpu_type, Job.tenant, Job.finished_at, Job.cost, Job.gpu_seconds).where(
            Job.status.not_in(LIVE), Job.finished_at <= until
        )
        if self._finished_at is not None:
            wanted = wanted.where(Job.finished_at >= self._finished_at)
        rows: list[Row[Any]] = [row for row in session.execute(wanted).all() if row.id not in self._at_mark]  # pyright: ignore[reportAssignmentType]  (a row is one of any)
        for row in rows:
            self._add(row)
        self._failures(session, [row.id for row in rows if row.status is Status.FAILED])
        newest = max((row.finished_at for row in rows), default=None)
        if newest is not None and newest != self._finished_at:
            self._finished_at, self._at_mark = newest, set()
        self._at_mark |= {row.id for row in rows if row.finished_at == self._finished_at}

    def _add(self, row: Row[Any]) -> None:
        gpu_type = row.gpu_type or "none"
        self.totals.ended[gpu_type, row.status.value] += 1
        self.totals.cost[row.tenant, gpu_type] += row.cost
        self.totals.gpu_seconds[row.tenant, gpu_type] += row.gpu_seconds

    def _failures(self, session: Session, job_ids: list[str]) -> None:
        for start in range(0, len(job_ids), 500):
            page = select(Job.error).where(Job.id.in_(job_ids[start : start + 500]))
            self.totals.failures.update(map(_code, session.scalars(page)))


def unfinished(session: Session) -> Unfinished:
    """Count the unfinished jobs at this moment."""
    at = now(session)
    auto = _auto_queue(session)
    found = Unfinished(at=at, running=queries.running_jobs(session))
    columns = (Job.status, Job.stage, Job.gpu, Job.queue, Job.paused, func.count(), func.min(Job.updated_at))
    groups = select(*columns).where(Job.status.in_(LIVE))
    for status, stage, gpu, queue, paused, count, since in session.execute(
        groups.group_by(Job.status, Job.stage, Job.gpu, Job.queue, Job.paused)
    ):
        sent = queue if status is not Status.PENDING else None
        name = common_queue(sent) if sent else queries.queue_to_be(stage, gpu, auto)
        if paused:
            found.paused += count
            continue
        found.counts[name, status.value] += count
        if status is not Status.RUNNING:
            age_s = max(0.0, (at - since).total_seconds())
            found.oldest_s[name] = max(found.oldest_s.get(name, 0.0), age_s)
    return found


def _auto_queue(session: Session) -> str:
    types = set(session.scalars(select(Worker.gpu_type).where(Worker.status == "online", Worker.kind == "gpu")))
    return GPU_QUEUES + (str(types.pop()) if len(types) == 1 else "auto")


def _code(error: JsonObject | None) -> str:
    return (JobError.read(error) or JobError()).code


def workers(session: Session) -> list[Worker]:
    """List every worker that is not offline."""
    return list(session.scalars(select(Worker).where(Worker.status != "offline").order_by(Worker.id)))


def attempts(session: Session) -> dict[str, int]:
    """Count the attempts by their outcome; unfinished attempts count as ``open``."""
    groups = select(Attempt.outcome, func.count()).group_by(Attempt.outcome)
    return {outcome or "open": count for outcome, count in session.execute(groups)}


def reaper_age_s(session: Session) -> float | None:
    """Return the seconds since the last run of a reaper; None if there was none."""
    seen: datetime | None = session.scalar(select(Beacon.seen_at).where(Beacon.name == "reaper"))
    return (now(session) - seen).total_seconds() if seen else None


def unannounced(session: Session) -> int:
    """Count the jobs whose end is not announced to their callers yet."""
    return session.scalar(select(func.count()).where(Announcement.announced_at.is_(None))) or 0
