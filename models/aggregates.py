"""Sums over the whole record, for monitoring: a few statements whatever the number of jobs.

Unusual: what only grows (events, ended jobs) is read once and then from where the last look stopped, by a ``Reader``
that its caller keeps; every other statement touches the unfinished jobs alone, by their index.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from . import history
from .database import now
from .states import Stage, Status
from .tables import Announcement, Attempt, Beacon, Event, Job, Worker

UNFINISHED = (Status.PENDING, Status.QUEUED, Status.RUNNING)
SETTLED_S = 15.0
"""Events become visible in the order of their commits, not of their ids: one that is this old has no younger brother
with a smaller id still to come."""

PAGE = 20_000
COUNTED = ("stage_started", "stage_finished", "released", "retrying", "worker_lost", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Running:
    """A running job, as far as its worker's figures go."""

    worker: str
    gpu_type: str
    tenant: str
    queue: str
    lease_left_s: float
    tokens_per_s: float | None
    gpu_memory_bytes: int | None
    gpu_utilisation: float | None


@dataclass(kw_only=True)
class Unfinished:
    """The jobs that are not over: counts by (queue, status), the longest wait by queue in seconds, the running ones."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    oldest_s: dict[str, float] = field(default_factory=dict[str, float])
    paused: int = 0
    running: list[Running] = field(default_factory=list[Running])


@dataclass(kw_only=True)
class Totals:
    """What has happened since the record began.

    Attributes:
        ended: Jobs by (GPU type, status).
        failures: Failed jobs by error code.
        cost: US dollars by (tenant, GPU type), of ended jobs.
        gpu_seconds: The same, seconds.
        stages: Seconds of each finished or interrupted run of a stage, by (stage, how it ended).
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
    """Adds up what only grows, each time from where it stopped.

    Args:
        settled_s: How old an event or a job's end must be to be read.
    """

    def __init__(self, settled_s: float = SETTLED_S) -> None:
        self.totals = Totals()
        self._settled_s = settled_s
        self._event_id = 0
        self._finished_at: datetime | None = None
        self._at_mark: set[str] = set()

    def read(self, session: Session) -> Totals:
        """Read what is new and return the sums; ``totals.stages`` holds the new runs alone."""
        until = now(session) - timedelta(seconds=self._settled_s)
        self.totals.stages = []
        while self._events(session, until):
            pass
        self._jobs(session, until)
        return self.totals

    def _events(self, session: Session, until: datetime) -> bool:
        """Read a page of the events that count; whether there may be more."""
        wanted = select(Event.id, Event.at, Event.kind, Event.data).where(Event.id > self._event_id)
        page = session.execute(wanted.where(Event.kind.in_(COUNTED)).order_by(Event.id).limit(PAGE)).all()
        for event_id, at, kind, data in page:
            if at > until:
                return False
            self._event_id = event_id
            self._take(kind, data or {})
        return len(page) == PAGE

    def _take(self, kind: str, data: dict[str, Any]) -> None:
        self.totals.events[kind] += 1
        if kind != "stage_started" and "stage" in data and "seconds" in data:
            outcome = "done" if kind == "stage_finished" else kind
            self.totals.stages.append((str(data["stage"]), outcome, float(data["seconds"])))
        if kind == "retrying":
            error: dict[str, Any] = data.get("error") or {}
            self.totals.retries[str(error.get("code", "internal"))] += 1

    def _jobs(self, session: Session, until: datetime) -> None:
        """Add the jobs that ended since; of those that ended at the very moment of the mark, the ones not seen yet."""
        wanted = select(Job.id, Job.status, Job.gpu_type, Job.tenant, Job.finished_at, Job.cost, Job.gpu_seconds).where(
            Job.status.not_in(UNFINISHED), Job.finished_at <= until
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
            self.totals.failures.update(str((error or {}).get("code", "internal")) for error in session.scalars(page))


def unfinished(session: Session) -> Unfinished:
    """The jobs that are not over, at this moment."""
    at = now(session)
    auto = _auto_queue(session)
    found = Unfinished()
    columns = (Job.status, Job.stage, Job.gpu, Job.queue, Job.paused, func.count(), func.min(Job.updated_at))
    groups = select(*columns).where(Job.status.in_(UNFINISHED))
    for status, stage, gpu, queue, paused, count, since in session.execute(
        groups.group_by(Job.status, Job.stage, Job.gpu, Job.queue, Job.paused)
    ):
        name = queue if status is not Status.PENDING and queue else history.queue_to_be(stage, gpu, auto)
        if paused:
            found.paused += count
            continue
        found.counts[name, status.value] += count
        if status is not Status.RUNNING:
            age_s = max(0.0, (at - since).total_seconds())
            found.oldest_s[name] = max(found.oldest_s.get(name, 0.0), age_s)
    found.running = list(_running(session, at))
    return found


def _auto_queue(session: Session) -> str:
    types = set(session.scalars(select(Worker.gpu_type).where(Worker.status == "online", Worker.kind == "gpu")))
    return f"gpu.{types.pop()}" if len(types) == 1 else "gpu.auto"


def _running(session: Session, at: datetime) -> Iterable[Running]:
    columns = (Job.worker_id, Job.gpu_type, Job.tenant, Job.queue, Job.lease_until, Job.progress, Job.stage)
    for worker, gpu_type, tenant, queue, lease_until, progress, stage in session.execute(
        select(*columns).where(Job.status == Status.RUNNING)
    ):
        told: dict[str, Any] = progress or {}
        yield Running(
            worker=str(worker),
            gpu_type=gpu_type or "none",
            tenant=tenant,
            queue=str(queue),
            lease_left_s=(lease_until - at).total_seconds() if lease_until else 0.0,
            tokens_per_s=told.get("tokens_per_s") if stage is Stage.TRAIN else None,  # it is what training told last
            gpu_memory_bytes=told.get("gpu_memory_bytes"),
            gpu_utilisation=told.get("gpu_utilisation"),
        )


def workers(session: Session) -> list[Worker]:
    """Every worker that is not offline."""
    return list(session.scalars(select(Worker).where(Worker.status != "offline").order_by(Worker.id)))


def attempts(session: Session) -> dict[str, int]:
    """Attempts by how they ended; those that go on are ``open``."""
    groups = select(Attempt.outcome, func.count()).group_by(Attempt.outcome)
    return {outcome or "open": count for outcome, count in session.execute(groups)}


def reaper_age_s(session: Session) -> float | None:
    """Seconds since a reaper last looked; None if none ever did."""
    seen: datetime | None = session.scalar(select(Beacon.seen_at).where(Beacon.name == "reaper"))
    return (now(session) - seen).total_seconds() if seen else None


def unannounced(session: Session) -> int:
    """Jobs whose end their callers were not told yet."""
    return session.scalar(select(func.count()).where(Announcement.announced_at.is_(None))) or 0
