"""Reads the waiting jobs as a scheduling round needs them, in time that does not grow with their number.

Waiting jobs are divided into lanes (``LANE`` of the table). A round enumerates the lanes by jumping from one to the
next in an index (a loose index scan), and reads of each lane as many jobs as it has slots to give. Both queries name
the condition of the partial indexes in the index's own words, as literals: SQLite uses a partial index only then.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    bindparam,
    false,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from ..states import JobClass, Stage, Status
from ..tables import Job
from ..tables.types import JsonObject

LanePlace = tuple[Stage, JobClass, str, str, str]
"""The values of a lane's columns: stage, class, GPU type, labels, tenant."""


class Head(NamedTuple):
    """The columns of a waiting job that decide its turn."""

    id: str
    tenant: str
    stage: Stage
    gpu: str
    priority: int
    created_at: datetime
    recovered: bool
    memory_bytes: int | None
    least_memory_bytes: int | None
    job_class: JobClass
    labels: str
    expected_s: dict[str, float] | None
    base: JsonObject | None = None


class Part(NamedTuple):
    """The part of a lane that a round reads.

    Attributes:
        most: Jobs that are read at most.
        room_bytes: Device memory of the slots that are free; a job that needs more is left out, so that the jobs behind
            it are read.
    """

    most: int
    room_bytes: int = 2**62


class Held(NamedTuple):
    """The columns of a job that holds a slot."""

    id: str
    tenant: str
    stage: Stage
    status: Status
    gpu_type: str | None
    queue: str | None
    job_class: JobClass
    claimed_at: datetime | None
    expected_s: dict[str, float] | None
    preempted_at: datetime | None
    preempt_requested: bool
    worker_id: str | None = None


class HeldCount(NamedTuple):
    """The number of jobs that hold slots and are equal in these columns."""

    tenant: str
    stage: Stage
    gpu_type: str | None
    queue: str | None
    jobs: int


HEAD: tuple[InstrumentedAttribute[Any], ...] = tuple(getattr(Job, name) for name in Head._fields)
HELD: tuple[InstrumentedAttribute[Any], ...] = tuple(getattr(Job, name) for name in Held._fields)
LANE: tuple[InstrumentedAttribute[Any], ...] = (Job.stage, Job.job_class, Job.gpu, Job.labels, Job.tenant)
TURN = (Job.recovered.desc(), Job.priority.desc(), Job.created_at, Job.id)
"""The order of the jobs of a lane."""
PENDING = "'pending'"
BY_AGE = "INDEXED BY ix_job_age"
"""A hint for SQLite, whose planner prefers an index of all jobs to the smaller one of the waiting jobs."""
NEVER = datetime(9999, 12, 31, tzinfo=UTC)
BATCH = 2_000
"""Jobs that a round reads at most, over all lanes."""
BATCHES = (1, 5, 25)
"""Numbers of lanes that one query reads."""


def in_queue(table: Any = Job) -> ColumnElement[bool]:
    """Build the condition of the waiting jobs: pending, and not paused."""
    return (table.status == literal_column(PENDING)) & (table.paused == false())


def rested(at: datetime) -> tuple[ColumnElement[bool], ...]:
    """Build the condition of a waiting job that no limit keeps from a slot, and that does not rest after a failure."""
    return (Job.limited.is_(None), or_(Job.not_before.is_(None), Job.not_before <= at))


def lanes(session: Session) -> list[LanePlace]:
    """List the lanes in which jobs wait."""
    found = session.execute(_lane_statement(session.get_bind().dialect.name))
    return [(row[0], row[1], row[2], row[3], row[4]) for row in found]


@cache
def _lane_statement(dialect: str) -> Select[*tuple[Any, ...]]:
    """Build the loose index scan, once: SQLAlchemy takes longer to build it than a database to run it."""
    first = select(Job.id).where(in_queue()).order_by(*LANE).limit(1)
    chain = select(first.scalar_subquery().label("id")).cte("lane", recursive=True)
    here, after = aliased(Job), aliased(Job)
    # SQLite compares two columns without affinity, and then uses the first of an index alone; coalesce() has none
    last = (func.coalesce(getattr(here, column.key), "") for column in LANE)
    reached: list[Any] = [getattr(after, column.key) for column in LANE]
    left: list[Any] = list(last)
    if dialect == "sqlite":  # SQLite reads a lane from its first job to its end; a time that no job has is its end
        reached, left = [*reached, after.created_at], [*left, NEVER]
    beyond = tuple_(*reached) > tuple_(*left)
    following = (
        select(after.id)
        .where(in_queue(after), beyond)
        .order_by(*(getattr(after, column.key) for column in LANE))
        .limit(1)
        .correlate(here)
        .scalar_subquery()
    )
    chain = chain.union_all(select(following).select_from(chain).join(here, here.id == chain.c.id))
    return select(*LANE).join(chain, chain.c.id == Job.id)


def heads(
    session: Session, wanted: Mapping[LanePlace, Part], at: datetime, *, aged_before: datetime
) -> tuple[list[Head], set[LanePlace]]:
    """Read the first jobs of some lanes.

    Args:
        session: An open session.
        wanted: The lanes, and the part of each that is read, in the order of the turns.
        at: The present time; a job that rests after a failure is left out.
        aged_before: Jobs that were accepted before this time come first (``policy.aged``), by age; as many of these are
            read, too.

    Returns:
        The jobs, in the order of their turns within each lane, and the lanes that have more.
    """
    found: dict[str, Head] = {}
    counts: dict[LanePlace, int] = {}
    left = list(wanted.items())
    while left:
        size = next((size for size in BATCHES if size >= len(left)), BATCHES[-1])
        batch, left = left[:size], left[size:]
        batch += [(batch[0][0], Part(0))] * (size - len(batch))  # a lane that is read again, without a row
        values: dict[str, object] = {"at": at, "aged_before": aged_before}
        for number, (place, part) in enumerate(batch):
            values |= {f"{column.key}_{number}": value for column, value in zip(LANE, place, strict=True)}
            values |= {f"most_{number}": part.most, f"room_{number}": part.room_bytes}
        for *columns, aged in session.execute(_head_statement(size), values):
            head = Head(*columns)
            found[head.id] = head
            if not aged:
                place = (head.stage, head.job_class, head.gpu, head.labels, head.tenant)
                counts[place] = counts.get(place, 0) + 1
    rows = sorted(found.values(), key=lambda row: (not row.recovered, -row.priority, row.created_at, row.id))
    return rows, {place for place, part in wanted.items() if 0 < part.most <= counts.get(place, 0)}


@cache
def _head_statement(size: int) -> Select[*tuple[Any, ...]]:
    """Build the query of the first jobs of so many lanes: those in the order of their turns, and those that have aged.

    One query reads many lanes: SQLAlchemy takes longer for a statement than the database for a lane.
    """
    at = bindparam("at", type_=Job.created_at.type)
    before = Job.created_at < bindparam("aged_before", type_=Job.created_at.type)
    parts: list[Any] = []
    for number in range(size):
        lane = (column == bindparam(f"{column.key}_{number}", type_=column.type) for column in LANE)
        mine = select(*HEAD).where(in_queue(), *lane)
        room = bindparam(f"room_{number}", type_=BigInteger())
        fits = (or_(need.is_(None), need <= room) for need in (Job.memory_bytes, Job.least_memory_bytes))
        ready = mine.where(Job.limited.is_(None), or_(Job.not_before.is_(None), Job.not_before <= at), *fits)
        most = bindparam(f"most_{number}", type_=Integer())
        in_turn = ready.order_by(*TURN).limit(most)
        by_age = ready.where(before).order_by(Job.created_at).limit(most).with_hint(Job, BY_AGE, "sqlite")
        for aged, each in enumerate((in_turn, by_age)):
            rows = each.subquery(f"lane_{number}_{aged}")
            parts.append(select(*rows.c, literal_column(str(aged), Integer()).label("aged")))
    found: Any = union_all(*parts).subquery("found")
    return select(*found.c)


def held(session: Session) -> list[Held]:
    """Read the jobs that hold a slot: those that were sent, and those that run."""
    active = Job.status.in_((Status.QUEUED, Status.RUNNING))
    return [Held(*row) for row in session.execute(select(*HELD).where(active, Job.stage != Stage.PUBLISH))]


def count_held(session: Session) -> list[HeldCount]:
    """Count the jobs that hold a slot, by tenant and kind of slot."""
    return [HeldCount(*row) for row in session.execute(_held_statement())]


@cache
def _held_statement() -> Select[*tuple[Any, ...]]:
    places = (Job.tenant, Job.stage, Job.gpu_type, Job.queue)
    active = (Job.status.in_((Status.QUEUED, Status.RUNNING)), Job.stage != Stage.PUBLISH)
    return select(*places, func.count()).where(*active).group_by(*places)


class Count(NamedTuple):
    """The number of unfinished jobs that are equal in these columns; ``queue`` is null for a pending job."""

    status: Status
    stage: Stage
    gpu: str
    queue: str | None
    jobs: int


def count_by_queue(session: Session) -> list[Count]:
    """Count the unfinished jobs by status, stage, GPU type and queue."""
    # the first columns of the index, so that no database sorts the rows
    places = (Job.paused, Job.stage, Job.job_class, Job.gpu)
    pending = select(*places, func.count()).where(Job.status == literal_column(PENDING)).group_by(*places)
    pending = pending.with_hint(Job, BY_AGE, "sqlite")
    waiting: dict[tuple[Stage, str], int] = {}
    for _, stage, _, gpu, jobs in session.execute(pending):
        waiting[stage, gpu] = waiting.get((stage, gpu), 0) + jobs
    sent = (Job.status, Job.stage, Job.gpu, Job.queue)
    active = select(*sent, func.count()).where(Job.status.in_((Status.QUEUED, Status.RUNNING))).group_by(*sent)
    found = [Count(Status.PENDING, stage, gpu, None, jobs) for (stage, gpu), jobs in waiting.items()]
    return found + [Count(*row) for row in session.execute(active)]
