"""Forecasts when waiting jobs start: plays the order of the queue over the slots with the expected seconds of the jobs.

Unusual: jobs of a tenant that are alike are one ``Group`` with a count, and a long queue is played some jobs at a time.
So the start of the last of 100,000 jobs is known in a fraction of a second. The order is that of a round (class,
recovered, share, the tenant's own turn) as it is now; no job arrives meanwhile.

For one GPU type and an unchanged order the forecast is list scheduling of independent jobs: the next job takes the slot
that is free first. The sorted times at which slots become free then never come later when a job is taken away, nor does
any start (tests hold it).
"""

import heapq
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from ..models.states import JobClass, Stage
from .fair_share import Shares
from .policy import BEGINNING
from .records import Account, Holding, Rules, Waiting
from .slots import Pool, Slots

STEPS = 5_000
"""Steps in which a queue is played at most; a longer queue goes several jobs at a time."""
PREPARE_S = 60.0
"""Seconds that ``prepare`` is expected to take."""

Turn = tuple[bool, int, datetime, str]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Waiting jobs of one tenant that follow each other in its line and wait for the same slots.

    Attributes:
        job: One of the jobs: its lane, its memory and its estimates are those of all.
        job_class: The class in which they compete (``policy.effective_class``).
        turn: The place of the group in the tenant's line (``policy.turn``).
        jobs: The number of the jobs.
        named: True for a job of its own, whose start is wanted.
    """

    job: Waiting
    job_class: JobClass
    turn: Turn
    jobs: int = 1
    named: bool = False


@dataclass(frozen=True, kw_only=True)
class Start:
    """The forecast of one job.

    Attributes:
        position: Its place among the jobs that wait for a slot which it could take; 1 is next.
        start_s: Seconds until it starts; None where no worker that is online could run it.
        ahead: The jobs before it by tenant.
    """

    position: int
    start_s: float | None
    ahead: Mapping[str, int] = field(default_factory=dict[str, int])


def forecast(
    groups: Iterable[Group],
    holdings: Sequence[Holding],
    *,
    accounts: Mapping[str, Account],
    slots: Slots,
    rules: Rules,
    at: datetime,
) -> dict[str, Start]:
    """Forecast the start of each named job.

    Args:
        groups: The waiting jobs, in any order.
        holdings: The jobs that hold a slot now, with the seconds that they are expected to take.
        accounts: The standing of the tenants.
        slots: The slots of the present moment, as a round counts them.
        rules: The operator's choices.
        at: The present time.
    """
    return _Play(list(groups), holdings, accounts=accounts, slots=slots, rules=rules, at=at).run()


class _Play:
    """One play of the queue."""

    def __init__(
        self,
        groups: Sequence[Group],
        holdings: Sequence[Holding],
        *,
        accounts: Mapping[str, Account],
        slots: Slots,
        rules: Rules,
        at: datetime,
    ) -> None:
        self._groups, self._slots, self._rules = groups, slots, rules
        self._shares = Shares(accounts, holdings, rules, at)
        self._free = _free_times(slots, holdings, rules, at)
        self._own_ends: dict[str, list[float]] = {}
        for tenant in {group.job.tenant for group in groups}:
            if (most := _most_at_once(self._shares.account(tenant))) is not None:
                self._own_ends[tenant] = _own_ends(tenant, holdings, most, rules, at)
        self._candidates: dict[tuple[str, Stage, str, str, int | None], list[Pool]] = {}
        self._before: Counter[tuple[str | None, str]] = Counter()
        self._left = sum(group.named for group in groups)
        self._step = 1 + sum(group.jobs for group in groups) // STEPS
        self.starts: dict[str, Start] = {}

    def run(self) -> dict[str, Start]:
        """Play class after class, the jobs that ran before first, until every named job has its start."""
        for job_class in JobClass:
            mine = [group for group in self._groups if group.job_class is job_class]
            for recovered in (True, False):
                self._play([group for group in mine if group.job.recovered is recovered])
                if not self._left:
                    return self.starts
        return self.starts

    def _play(self, groups: Sequence[Group]) -> None:
        lines: dict[tuple[bool, str], list[Group]] = {}
        for group in sorted(groups, key=lambda group: group.turn, reverse=True):
            lines.setdefault((group.job.stage.on_gpu, group.job.tenant), []).append(group)
        heap = [(self._level(key), line[-1].job.created_at, line[-1].job.id, key) for key, line in lines.items()]
        heapq.heapify(heap)
        while heap and self._left:
            key = heapq.heappop(heap)[-1]
            line = lines[key]
            self._take(line)
            if line:
                heapq.heappush(heap, (self._level(key), line[-1].job.created_at, line[-1].job.id, key))

    def _level(self, key: tuple[bool, str]) -> tuple[float, float]:
        on_gpu, tenant = key
        return self._shares.level(tenant, on_gpu=on_gpu)

    def _take(self, line: list[Group]) -> None:
        """Start the next jobs of a tenant's line."""
        group = line.pop()
        count = min(self._step, group.jobs)
        if count < group.jobs:
            line.append(replace(group, jobs=group.jobs - count))
        job = group.job
        if group.named:
            self._left -= 1
            self.starts[job.id] = self._named(job)
        lane = job.gpu if job.stage.on_gpu else None
        self._before[lane, job.tenant] += count
        if pools := self._pools(job):
            for gpu_type, jobs in self._start(job, pools, count).items():
                self._shares.charge(job.tenant, gpu_type if job.stage.on_gpu else None, job.expected_s, jobs=jobs)

    def _named(self, job: Waiting) -> Start:
        """Return the forecast of a job whose turn it is now."""
        if not job.stage.on_gpu:
            rivals = {None}
        else:
            rivals = {job.gpu, "auto"} if job.gpu != "auto" else {lane for lane, _ in self._before if lane is not None}
        ahead: Counter[str] = Counter()
        for (lane, tenant), count in self._before.items():
            ahead[tenant] += count if lane in rivals else 0
        pools = self._pools(job)
        start_s = self._next(job, pools)[0] if pools else None
        return Start(position=ahead.total() + 1, start_s=start_s, ahead={name: n for name, n in ahead.items() if n})

    def _pools(self, job: Waiting) -> list[Pool]:
        """List the pools that a job could take, the one that it tries first in front; none if its tenant is stopped."""
        key = (job.tenant, job.stage, job.gpu, job.labels, job.memory_bytes)
        if key not in self._candidates:
            types: list[str | None] = [None]
            if job.stage.on_gpu:
                types = list(self._slots.fitting(job)) if job.gpu == "auto" else [job.gpu]
            account = self._shares.account(job.tenant)
            stopped = account.blocked is not None or _most_at_once(account) == 0
            found = [] if stopped else [pool for name in types for pool in self._slots.usable(job, name)]
            self._candidates[key] = [pool for pool in found if self._free.get((pool.gpu_type, pool.worker))]
        return self._candidates[key]

    def _next(self, job: Waiting, pools: Sequence[Pool]) -> tuple[float, Pool]:
        """Return the seconds until the job's next slot is free, and the slot's pool."""
        pool = min(pools, key=lambda pool: self._free[pool.gpu_type, pool.worker][0])
        start_s = self._free[pool.gpu_type, pool.worker][0]
        own = self._own_ends.get(job.tenant)
        return (max(start_s, own[0]) if own else start_s), pool

    def _start(self, job: Waiting, pools: Sequence[Pool], count: int) -> dict[str | None, int]:
        """Let so many jobs that are alike take their next slots; return the number of them by GPU type.

        A long queue starts a hundred thousand jobs here, so what is equal for all of them is read once.
        """
        places = [(self._free[pool.gpu_type, pool.worker], pool.gpu_type) for pool in pools]
        seconds = {gpu_type: seconds_of(job, gpu_type, self._rules) for _, gpu_type in places}
        own = self._own_ends.get(job.tenant)
        taken: dict[str | None, int] = {}
        for _ in range(count):
            free, gpu_type = min(places, key=_first_free_s) if len(places) > 1 else places[0]
            start_s = max(free[0], own[0]) if own else free[0]
            ends_s = start_s + seconds[gpu_type]
            # a tenant at its own limit takes the slot that became free last before: the others keep the earlier ones
            free.pop(bisect_right(free, start_s) - 1)
            insort(free, ends_s)
            if own:
                own.pop(0)
                insort(own, ends_s)
            taken[gpu_type] = taken.get(gpu_type, 0) + 1
        return taken


def _first_free_s(place: tuple[list[float], str | None]) -> float:
    return place[0][0]


def seconds_of(job: Waiting, gpu_type: str | None, rules: Rules) -> float:
    """Return the seconds for which a job is expected to hold a slot."""
    if gpu_type is None:
        return PREPARE_S
    return job.expected_s.get(gpu_type) or max(job.expected_s.values(), default=rules.unknown_s)


def left_s(holding: Holding, rules: Rules, at: datetime) -> float:
    """Return the seconds for which a job is expected to hold its slot from now on, at least one."""
    known_s = PREPARE_S if holding.gpu_type is None else holding.expected_s
    whole_s = rules.unknown_s if known_s is None else known_s
    return max(1.0, whole_s - holding.elapsed_s(at))


def anybody(tenant: str, stage: Stage, gpu: str, labels: str, *, recovered: bool) -> Waiting:
    """Make the record of a job that stands for others of its lane."""
    return Waiting(
        id="", tenant=tenant, stage=stage, gpu=gpu, priority=0, created_at=BEGINNING, labels=labels, recovered=recovered
    )


def _most_at_once(account: Account) -> int | None:
    limits = [limit for limit in (account.max_gpus, account.max_jobs) if limit is not None]
    return min(limits, default=None)


def _free_times(
    slots: Slots, holdings: Iterable[Holding], rules: Rules, at: datetime
) -> dict[tuple[str | None, str], list[float]]:
    """Return for each pool the seconds until each of its slots is free, in rising order."""
    ends: dict[tuple[str | None, str], list[float]] = {key: [] for key in slots.pools}
    for holding in holdings:
        key = (holding.gpu_type, holding.worker)
        if not holding.outside and key in ends:
            ends[key].append(left_s(holding, rules, at))
    return {
        key: sorted([*[0.0] * max(0, pool.total - len(ends[key])), *ends[key]])[: pool.total]
        for key, pool in slots.pools.items()
    }


def _own_ends(tenant: str, holdings: Iterable[Holding], most: int, rules: Rules, at: datetime) -> list[float]:
    """Return the seconds until a tenant may start its next jobs, as many as it may have at once."""
    ends = sorted(left_s(holding, rules, at) for holding in holdings if holding.tenant == tenant)
    return [*[0.0] * max(0, most - len(ends)), *ends[-most:]] if most else []
