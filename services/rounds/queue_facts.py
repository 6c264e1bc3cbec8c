"""Reads the plain records that the policy decides over: waiting jobs, workers, held slots, tenants.

A round reads the lanes, and of each lane that may get a slot the first jobs. Its cost depends on the number of lanes
and of free slots, not on the number of jobs that wait. Where no lane may get a slot, the held slots are counted, and
not read one by one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

from sqlalchemy.orm import Session

from ...models.jobs.failures import base_key
from ...models.queue.waiting import BATCH, Head, Held, HeldCount, LanePlace, Part, count_held, heads, held, lanes
from ...models.states import JobClass, Stage, Status
from ...models.workers import WorkerState, common_workers, obstacle, other_workers, warm_workers
from ...scheduling.records import NO_ESTIMATE, Holding, Lane, Node, Rules, Waiting
from ...scheduling.slots import Slots
from ...settings.gpus import GpuType, gpu_catalogue
from ...settings.settings import Settings
from ...workers import queues
from .shares import Standing, read_standing

NO_LIMIT = Part(0).room_bytes
LEAST_READ = 4
"""Jobs of a lane that a round reads at least, as far as slots are free for them."""


@dataclass(frozen=True, kw_only=True)
class QueueFacts:
    """Everything that a decision needs.

    Attributes:
        at: The time of the database's clock.
        lanes: The lanes in which jobs wait.
        jobs: The first jobs of the lanes that may get a slot.
        cut: Lanes that have more jobs than were read.
        nodes: The workers that are online.
        holdings: The jobs that hold a slot; counted where no job can get one.
        standing: The tenants.
        types: The GPU catalogue.
        rules: The operator's choices.
    """

    at: datetime
    lanes: Sequence[Lane]
    jobs: Sequence[Waiting]
    cut: frozenset[Lane]
    nodes: Sequence[Node]
    holdings: Sequence[Holding]
    standing: Standing
    types: Mapping[str, GpuType]
    rules: Rules


def read_queue(session: Session, settings: Settings, at: datetime, *, jobs: bool = True) -> QueueFacts:
    """Read the records of a round.

    Args:
        session: An open session of all tenants.
        settings: Settings of the installation.
        at: The present time.
        jobs: False leaves out the waiting jobs.
    """
    types = gpu_catalogue(settings.gpus)
    rules = rules_of(settings)
    nodes = read_nodes(session, settings)
    counted = [counted_of(row) for row in count_held(session)]
    slots = Slots(nodes, counted, types, rules, at)
    found = [Lane(*place) for place in lanes(session)]
    wanted = _wanted(found, slots, rules) if jobs else {}
    again_s = settings.preempt_again_minutes * 60

    @cache
    def each_held() -> list[Holding]:
        return [holding_of(row, at=at, preempt_again_s=again_s) for row in held(session)]

    aged_before = at - timedelta(seconds=rules.aging_s)
    rows, cut = heads(session, wanted, at, aged_before=aged_before)
    at_work, waiting = {holding.tenant for holding in counted}, {lane.tenant for lane in found}
    standing = read_standing(session, settings, rules, at, holdings=each_held, at_work=at_work, waiting=waiting)
    return QueueFacts(
        at=at,
        lanes=found,
        jobs=[waiting_of(row) for row in rows],
        cut=frozenset(Lane(*place) for place in cut),
        nodes=nodes,
        holdings=each_held() if wanted or not jobs else counted,
        standing=standing,
        types=types,
        rules=rules,
    )


def read_nodes(session: Session, settings: Settings) -> list[Node]:
    """Read the workers: those that are equal to every job as one node of each type, the others one by one."""
    limit_bytes = settings.foreign_memory_bytes
    warm: dict[str | None, dict[str, frozenset[str]]] = {}
    for worker in warm_workers(session, limit_bytes):
        warm.setdefault(worker.gpu_type, {})[worker.id] = frozenset(worker.bases)
    common = [
        Node(
            kind=group.kind, gpu_type=group.gpu_type, memory_bytes=group.memory_bytes, slots=group.slots,
            warm=warm.get(group.gpu_type, {}),
        )
        for group in common_workers(session, limit_bytes)
    ]  # fmt: skip
    return [*common, *(node_of(row, settings) for row in other_workers(session, limit_bytes))]


def _wanted(found: Sequence[Lane], slots: Slots, rules: Rules) -> dict[LanePlace, Part]:
    """Return the lanes of which jobs are read, and the part of each.

    A lane could take as many slots as are free for it, and of a slot that several tenants want it gets its part: twice
    that part is read. Where a tenant that is far behind takes more, the round ends and another one follows at once.
    """

    @cache
    def most(stage: Stage, gpu: str) -> int:
        return most_of(stage, gpu, slots)

    free = {lane: most(lane.stage, lane.gpu) or int(may_preempt(lane, rules)) for lane in found}
    able = [lane for lane in found if free[lane]]
    tenants = Counter(kind for kind, _ in {(_kind(lane), lane.tenant) for lane in able})
    each = max(LEAST_READ, BATCH // max(1, len(able)))
    parts = {lane: -(-2 * free[lane] // tenants[_kind(lane)]) for lane in able}
    return {lane: Part(min(free[lane], each, max(LEAST_READ, parts[lane])), _room(lane, slots, rules)) for lane in able}


def _room(lane: Lane, slots: Slots, rules: Rules) -> int:
    """Return the largest device memory of the free slots, for jobs that take any type.

    The memory of the others is not judged, nor that of an urgent job which may take a slot that is not free.
    """
    if not lane.stage.on_gpu or lane.gpu != "auto" or may_preempt(lane, rules):
        return NO_LIMIT
    free = (pool.memory_bytes for pool in slots.pools.values() if pool.gpu_type and pool.used < pool.total)
    return max(free, default=NO_LIMIT)


def _kind(lane: Lane) -> str | None:
    """Return the kind of slots that a lane's jobs compete for."""
    return lane.gpu if lane.stage.on_gpu else None


def most_of(stage: Stage, gpu: str, slots: Slots) -> int:
    """Return the number of free slots that the jobs of a lane could take; a lane without one need not be read."""
    if stage is Stage.PUBLISH:
        return BATCH
    if stage is Stage.PREPARE:
        return slots.free(None)
    kinds: Iterable[str | None] = {pool.gpu_type for pool in slots.pools.values()} - {None}
    return sum(slots.free(kind) for kind in kinds if gpu in ("auto", kind))


def may_preempt(lane: Lane, rules: Rules) -> bool:
    """Return whether the first job of a lane may take the slot of a running one."""
    return rules.preemption and lane.job_class is JobClass.URGENT and lane.stage.on_gpu


def waiting_of(row: Head) -> Waiting:
    """Make the policy's record of a waiting job."""
    return Waiting(
        id=row.id,
        tenant=row.tenant,
        stage=row.stage,
        gpu=row.gpu,
        priority=row.priority,
        created_at=row.created_at,
        recovered=row.recovered,
        memory_bytes=max(row.memory_bytes or 0, row.least_memory_bytes or 0) or None,
        job_class=row.job_class,
        labels=row.labels,
        expected_s=row.expected_s or NO_ESTIMATE,
        base=base_key(row.base) if row.base else "",
    )


def counted_of(row: HeldCount) -> Holding:
    """Make the policy's record of jobs that hold slots and are alike; the time that they take is not known."""
    return Holding(
        tenant=row.tenant,
        gpu_type=row.gpu_type if row.stage.on_gpu else None,
        outside=row.queue == queues.FOREGROUND,
        worker=queues.worker_of(row.queue),
        jobs=row.jobs,
    )


def holding_of(row: Held, *, at: datetime, preempt_again_s: float) -> Holding:
    """Make the policy's record of a job that holds a slot.

    Args:
        row: The columns of the job.
        at: The present time.
        preempt_again_s: Seconds for which a job that was preempted is not preempted again.
    """
    spared = row.preempted_at is not None and (at - row.preempted_at).total_seconds() < preempt_again_s
    return Holding(
        tenant=row.tenant,
        gpu_type=row.gpu_type if row.stage.on_gpu else None,
        outside=row.queue == queues.FOREGROUND,
        job_id=row.id,
        worker=queues.worker_of(row.queue),
        job_class=row.job_class,
        since=row.claimed_at,
        expected_s=(row.expected_s or NO_ESTIMATE).get(row.gpu_type or ""),
        stopping=row.preempt_requested,
        preemptible=row.stage is Stage.TRAIN and row.status is Status.RUNNING and not spared,
        runs_on=(row.worker_id or "") if row.status is Status.RUNNING else queues.direct_worker_of(row.queue),
    )


def node_of(row: WorkerState, settings: Settings) -> Node:
    """Make the policy's record of a worker."""
    return Node(
        kind=row.kind,
        gpu_type=row.gpu_type,
        memory_bytes=row.memory_bytes or 0,
        slots=row.slots,
        name=row.id,
        obstacle=obstacle(row, settings.foreign_memory_bytes),
        tenant=row.reserved_for or "",
        labels=frozenset(row.labels.split(",")) if row.labels else frozenset(),
        bases=frozenset(row.bases or ()),
    )


def rules_of(settings: Settings) -> Rules:
    """Make the policy's rules from the settings."""
    return Rules(
        half_life_s=settings.share_half_life_hours * 3600,
        aging_s=settings.aging_hours * 3600,
        auto_wait_s=settings.auto_wait_minutes * 60,
        preemption=settings.preemption,
    )
