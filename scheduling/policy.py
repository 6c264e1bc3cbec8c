"""Decides which waiting job gets which slot: a pure function over plain records.

Order: the limits of the tenant; slots that are reserved; the class (urgent, normal, background); recovered jobs, which
ran before; the tenant with the lowest level of weighted, decayed use (``fair_share``); within the tenant the priority,
then the age. ``auto`` takes the cheapest type whose memory fits, or a dearer one where that would make it wait longer
than the operator wants. A job that gets no slot gets a reason.

The bound on waiting: a job that waited ``Rules.aging_s`` comes before every younger job of its tenant, and a background
one counts as normal. From then on only older jobs of its tenant, and jobs that ran before, come first; so it waits at
most ``aging_s``, and then the time in which the tenant's share of the slots works off its tenant's older jobs, and one
job's length. Other tenants cannot lengthen that by submitting more.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ..models.states import JobClass, Stage
from ..settings.gpus import GpuType
from .explain import Code, Reason
from .fair_share import Shares
from .records import Account, Decision, Holding, Lane, Node, Preemption, ReasonsByMemory, Release, Rules, Waiting
from .slots import Slots

NO_RULES = Rules()
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
TO_PREEMPT = (Code.BUSY,)
"""Reasons that a freed slot would end."""


def decide(
    jobs: Sequence[Waiting],
    nodes: Sequence[Node],
    holdings: Sequence[Holding],
    *,
    types: Mapping[str, GpuType],
    accounts: Mapping[str, Account] | None = None,
    rules: Rules = NO_RULES,
    at: datetime | None = None,
    lanes: Iterable[Lane] = (),
    cut: frozenset[Lane] = frozenset(),
) -> Decision:
    """Give the free slots to the waiting jobs.

    Args:
        jobs: The pending jobs, or of each lane the first ones in the order of their turns.
        nodes: The workers that are online.
        holdings: The jobs that hold a slot now.
        types: The GPU catalogue, for prices.
        accounts: The standing of the tenants.
        rules: The operator's choices.
        at: The present time; without one no job ages.
        lanes: The lanes whose reason is wanted; the decision gives one for all jobs of a lane.
        cut: Lanes of which not every job is given. The round ends where such a lane's jobs are used up, since the next
            slot could belong to a job that is not given.
    """
    round_ = _Round(nodes, holdings, types=types, accounts=accounts or {}, rules=rules, at=at, cut=cut)
    for job_class in JobClass:
        mine = [job for job in jobs if effective_class(job, rules, at) is job_class]
        for recovered in (True, False):
            round_.offer([job for job in mine if job.recovered is recovered])
    if rules.preemption:
        round_.preempt(jobs, holdings)
    if not round_.decision.unfinished:
        round_.decision.lanes = lane_reasons(lanes, round_.slots, round_.shares)
    return round_.decision


def aged(job: Waiting, rules: Rules, at: datetime | None) -> bool:
    """Return whether a job has waited so long that its age decides."""
    return at is not None and (at - job.created_at).total_seconds() >= rules.aging_s


def effective_class(job: Waiting, rules: Rules, at: datetime | None) -> JobClass:
    """Return the class in which a job competes: a background job that aged counts as normal."""
    return JobClass.NORMAL if job.job_class is JobClass.BACKGROUND and aged(job, rules, at) else job.job_class


def turn(job: Waiting, rules: Rules, at: datetime | None) -> tuple[bool, int, datetime, str]:
    """Return the order of the jobs within a tenant: those that aged by age, then by priority, then by age."""
    old = aged(job, rules, at)
    return (not old, 0 if old else -job.priority, job.created_at, job.id)


class _Round:
    """One round while it is decided."""

    def __init__(
        self,
        nodes: Sequence[Node],
        holdings: Sequence[Holding],
        *,
        types: Mapping[str, GpuType],
        accounts: Mapping[str, Account],
        rules: Rules,
        at: datetime | None,
        cut: frozenset[Lane],
    ) -> None:
        self.decision = Decision()
        self.slots = Slots(nodes, holdings, types, rules, at)
        self.shares = Shares(accounts, holdings, rules, at)
        self._rules, self._at, self._cut = rules, at, cut

    def offer(self, jobs: Iterable[Waiting]) -> None:
        """Offer the slots to jobs of equal rank; the tenant whose level is lowest chooses first, each time anew."""
        lines: dict[tuple[bool, str], list[Waiting]] = {}
        for job in sorted(jobs, key=lambda job: turn(job, self._rules, self._at), reverse=True):
            lines.setdefault((job.stage.on_gpu, job.tenant), []).append(job)
        last = _last_of(lines.values())
        heap = [self._entry(key, line[-1]) for key, line in lines.items()]
        heapq.heapify(heap)
        while heap:
            key = heapq.heappop(heap)[-1]
            job = lines[key].pop()
            self._place(job)
            if job.lane in self._cut and last[job.lane] == job.id and job.id not in self.decision.waits:
                self.decision.unfinished = True
            if lines[key]:
                heapq.heappush(heap, self._entry(key, lines[key][-1]))

    def _entry(
        self, key: tuple[bool, str], job: Waiting
    ) -> tuple[tuple[float, float], datetime, str, tuple[bool, str]]:
        on_gpu, tenant = key
        return (self.shares.level(tenant, on_gpu=on_gpu), job.created_at, job.id, key)

    def _place(self, job: Waiting) -> None:
        account = self.shares.account(job.tenant)
        if self.decision.unfinished and job.stage is not Stage.PUBLISH:
            self.decision.waits[job.id] = self.slots.busy(job, None if job.stage is Stage.PREPARE else job.gpu, None)
            return
        placed = self.slots.place(job, account)
        if isinstance(placed, Release):
            self.decision.releases.append(placed)
        else:
            self.decision.waits[job.id] = placed
        if job.stage is not Stage.PUBLISH and _comes(placed):
            gpu_type = (placed.gpu_type if isinstance(placed, Release) else job.gpu) if job.stage.on_gpu else None
            self.shares.charge(job.tenant, gpu_type, job.expected_s)

    def preempt(self, jobs: Iterable[Waiting], holdings: Sequence[Holding]) -> None:
        """Choose the running jobs that give their slots to urgent ones.

        Of the jobs of the lowest class the one that began last is chosen: it loses the least. A slot that a job is
        giving back already is not asked for again.
        """
        urgent = [
            job
            for job in sorted(jobs, key=lambda job: turn(job, self._rules, self._at))
            if job.job_class is JobClass.URGENT and job.stage.on_gpu
            and (why := self.decision.waits.get(job.id)) is not None and why.code in TO_PREEMPT
        ]  # fmt: skip
        coming = [holding for holding in holdings if holding.stopping]
        able = sorted(
            (holding for holding in holdings if holding.preemptible and not holding.stopping and not holding.outside),
            key=lambda holding: (holding.job_class.rank, holding.since is not None and holding.since.timestamp()),
        )
        for job in urgent:
            promised = next((holding for holding in coming if self._suits(job, holding)), None)
            if promised is not None:
                coming.remove(promised)
                continue
            victim = next((one for one in reversed(able) if self._suits(job, one)), None)
            if victim is not None:
                able.remove(victim)
                self.decision.preemptions.append(Preemption(job_id=victim.job_id, for_job=job.id))

    def _suits(self, job: Waiting, holding: Holding) -> bool:
        pool = self.slots.pools.get((holding.gpu_type, holding.worker))
        if pool is None or holding.gpu_type is None or holding.job_class.rank <= job.job_class.rank:
            return False
        fits = job.gpu == holding.gpu_type or (job.gpu == "auto" and pool.memory_bytes >= (job.memory_bytes or 0))
        return fits and pool.admits(job)


def _last_of(lines: Iterable[list[Waiting]]) -> dict[Lane, str]:
    """Return the last job of each lane; the first of a line is its last in turn."""
    last: dict[Lane, str] = {}
    for line in lines:
        for job in line:
            last.setdefault(job.lane, job.id)
    return last


def lane_reasons(lanes: Iterable[Lane], slots: Slots, shares: Shares) -> dict[Lane, ReasonsByMemory]:
    """Give the reasons why the jobs of each lane wait.

    A tenant below its limits meets the same slots as every other one, those aside that are reserved for it. So lanes
    that differ in the tenant or the class alone share one object, which is made once.

    Args:
        lanes: The lanes.
        slots: The slots after the round.
        shares: The standing of the tenants.
    """
    reserved = {pool.tenant for pool in slots.pools.values()}
    found: dict[Lane, ReasonsByMemory] = {}
    alike: dict[Lane, ReasonsByMemory] = {}
    for lane in lanes:
        account, publishes = shares.account(lane.tenant), lane.stage is Stage.PUBLISH
        stopped = None if publishes else slots.stopped(lane.tenant, account, on_gpu=lane.stage.on_gpu)
        if stopped is not None:
            found[lane] = [(0, stopped)]
            continue
        group = lane._replace(job_class=JobClass.NORMAL, tenant=lane.tenant if lane.tenant in reserved else "")
        if group not in alike:
            alike[group] = _lacking_slots(group, slots)
        found[lane] = alike[group]
    return found


def _lacking_slots(lane: Lane, slots: Slots) -> list[tuple[int, Reason]]:
    """Give the reasons of a lane whose tenant may start jobs, by the memory that they need."""
    probe = Waiting(
        id="", tenant=lane.tenant, stage=lane.stage, gpu=lane.gpu, priority=0, created_at=BEGINNING,
        job_class=lane.job_class, labels=lane.labels,
    )  # fmt: skip
    if not lane.stage.on_gpu:
        return [(0, slots.busy(probe, None, None))]
    if lane.gpu != "auto":
        return [(0, slots.busy(probe, lane.gpu, None))]
    found: list[tuple[int, Reason]] = []
    for above in sorted({0, *slots.memory(probe).values()}):
        job = replace(probe, memory_bytes=above + 1 if above else None)
        wanted = slots.fitting(job)
        why = slots.busy(job, wanted[0], None) if wanted else slots.nothing_fits(replace(job, memory_bytes=None))
        if not found or found[-1][1] != why:
            found.append((above, why))
    return found


def _comes(placed: Release | Reason) -> bool:
    """Return whether the job has its turn, now or as soon as a slot is free; a limit of its tenant stops it."""
    return isinstance(placed, Release) or placed.code in TO_PREEMPT
