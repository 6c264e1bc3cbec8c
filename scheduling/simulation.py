"""Replays jobs on a made-up cluster through the same ``decide`` as a real round, without a clock.

The time jumps from event to event: a job arrives, or a job ends. Jobs without an estimate are charged as in a real
round. A preempted job keeps the work that it did, and goes on with the rest. Estimates learn, and starts are forecast
(``simulated_forecasts``).
"""

import heapq
from bisect import insort
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice

from ..settings.gpus import GpuType
from .fair_share import Shares, decayed, returning
from .policy import aged, decide
from .records import Account, Holding, Lane, Node, Release, Rules, Waiting
from .simulated_forecasts import Forecasts
from .slots import Slots

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
POLICIES = ("fair", "fifo", "priority")
"""Celora's own policy; first in, first out; strict priority whatever the tenant."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A job of a simulation.

    Attributes:
        job: The job as the policy sees it; ``created_at`` is its arrival.
        seconds: Seconds that it holds a GPU, by GPU type; ``*`` stands for every other type.
        kind: The jobs of one kind correct each other's estimates.
    """

    job: Waiting
    seconds: Mapping[str, float]
    kind: str = ""

    def takes_s(self, gpu_type: str) -> float:
        """Return the seconds that the job takes on a GPU type."""
        return self.seconds.get(gpu_type, self.seconds.get("*", 0.0))


@dataclass(frozen=True, kw_only=True)
class Run:
    """The time in which a job held a slot; ``done`` is False for a part that a preemption ended."""

    job_id: str
    tenant: str
    gpu_type: str
    started_s: float
    ended_s: float
    done: bool = True


@dataclass(kw_only=True)
class Outcome:
    """The result of a simulation, in seconds since its beginning.

    Attributes:
        policy: The policy that decided.
        runs: Every time that a job held a slot.
        waited_s: Seconds from a job's arrival to its first start, by job.
        never: Jobs that no worker of the cluster can run.
        preemptions: Times that a job gave its slot to an urgent one.
        rounds: Decisions that were made.
        forecast_error: The median error of the forecast starts, as a part of the wait; None where none was compared.
        forecasts: The number of forecasts that were compared.
    """

    policy: str
    runs: list[Run] = field(default_factory=list[Run])
    waited_s: dict[str, float] = field(default_factory=dict[str, float])
    never: list[str] = field(default_factory=list[str])
    preemptions: int = 0
    rounds: int = 0
    forecast_error: float | None = None
    forecasts: int = 0


def simulate(
    tasks: Sequence[Task],
    nodes: Sequence[Node],
    accounts: Mapping[str, Account],
    *,
    types: Mapping[str, GpuType],
    rules: Rules,
    policy: str = "fair",
) -> Outcome:
    """Replay the jobs until every one that can run has ended.

    Args:
        tasks: The jobs.
        nodes: The workers, which stay the same.
        accounts: The standing of the tenants at the beginning.
        types: The GPU catalogue, for prices.
        rules: The operator's choices.
        policy: One of ``POLICIES``.
    """
    return _Simulation(tasks, nodes, accounts, types=types, rules=rules, policy=policy).run()


class _Simulation:
    def __init__(
        self,
        tasks: Sequence[Task],
        nodes: Sequence[Node],
        accounts: Mapping[str, Account],
        *,
        types: Mapping[str, GpuType],
        rules: Rules,
        policy: str,
    ) -> None:
        self._nodes, self._types, self._rules, self._policy = nodes, types, rules, policy
        self._tasks = {task.job.id: task for task in tasks}
        self._formula: dict[str, Mapping[str, float]] = {}
        self._left = {task.job.id: 1.0 for task in tasks}  # the part of its work that a job has still to do
        self._lines: dict[Lane, list[tuple[tuple[bool, int, datetime, str], Waiting]]] = {}
        self._by_age: dict[Lane, deque[Waiting]] = {}
        self._waiting = set[str]()
        self._arrivals = [(task.job.created_at, task.job.id) for task in tasks]
        heapq.heapify(self._arrivals)
        self._ends: list[tuple[datetime, str, int]] = []
        self._held: dict[str, tuple[Holding, int]] = {}
        self._starts = 0
        self._use = {name: (account.used_s, BEGINNING) for name, account in accounts.items()}
        self._accounts, self._competing = dict(accounts), set[str]()
        self._forecasts = Forecasts(len(tasks), rules)
        self._kinds: dict[str | None, tuple[int, int]] = {}
        for node in nodes:
            slots, size = self._kinds.get(node.gpu_type, (0, 0))
            self._kinds[node.gpu_type] = (slots + node.slots, max(size, node.memory_bytes))
        self._slots = sum(node.slots for node in nodes if node.kind == "gpu" and not node.obstacle)
        self.outcome = Outcome(policy=policy)

    def run(self) -> Outcome:
        """Go from event to event."""
        while self._arrivals or self._ends:
            at = min(line[0][0] for line in (self._arrivals, self._ends) if line)
            while self._ends and self._ends[0][0] <= at:
                self._end(*heapq.heappop(self._ends))
            arrived = list[str]()
            while self._arrivals and self._arrivals[0][0] <= at:
                arrived.append(heapq.heappop(self._arrivals)[1])
                self._arrive(arrived[-1])
            self._decide(at)
            if self._policy == "fair" and (still := self._waiting.intersection(arrived)):
                self._forecast(still, at)
        self.outcome.forecast_error, self.outcome.forecasts = self._forecasts.error, self._forecasts.compared
        self.outcome.never = [job.id for line in self._lines.values() for _, job in line]
        return self.outcome

    def _arrive(self, job_id: str) -> None:
        """Let a job enter that the scenario brings; its estimates are corrected, as ``prepare`` does."""
        task = self._tasks[job_id]
        self._tasks[job_id] = replace(task, job=self._forecasts.corrected(task.job, task.kind))
        self._formula[job_id] = task.job.expected_s
        self._enter(self._tasks[job_id].job)

    def _forecast(self, arrived: Collection[str], at: datetime) -> None:
        holdings = [holding for holding, _ in self._held.values()]
        waiting = (job for line in self._lines.values() for _, job in line)
        slots = Slots(self._nodes, holdings, self._types, self._rules, at)
        self._forecasts.make(arrived, waiting, holdings, accounts=self._accounts, slots=slots, at=at)

    def _enter(self, job: Waiting) -> None:
        seen = self._as_seen(job)
        key = (not seen.recovered, -seen.priority, seen.created_at, seen.id)
        insort(self._lines.setdefault(seen.lane, []), (key, seen))
        self._by_age.setdefault(seen.lane, deque()).append(seen)
        self._waiting.add(seen.id)

    def _as_seen(self, job: Waiting) -> Waiting:
        """Return the job as the policy of the comparison sees it: without tenants, and without priorities."""
        if self._policy == "fair":
            return job
        return replace(job, tenant="all", priority=job.priority if self._policy == "priority" else 0)

    def _decide(self, at: datetime) -> None:
        while True:
            free = self._slots - len(self._held)
            urgent = self._rules.preemption and any(lane.job_class.rank == 0 for lane in self._lines)
            if (free <= 0 and not urgent) or not self._lines:
                return
            most, room_bytes = max(1, free), self._room_bytes()
            heads = {job.id: job for lane in self._lines for job in self._first(lane, most, room_bytes)}
            heads |= {job.id: job for lane in self._lines for job in self._aged(lane, most, at)}
            cut = frozenset(lane for lane, line in self._lines.items() if len(line) > most)
            accounts = self._standing(at)
            decision = decide(
                list(heads.values()), self._nodes, [holding for holding, _ in self._held.values()], types=self._types,
                accounts=accounts, rules=self._rules, at=at, cut=cut,
            )  # fmt: skip
            self.outcome.rounds += 1
            for release in decision.releases:
                self._start(release, at)
            for preemption in decision.preemptions:
                self._preempt(preemption.job_id, at)
            again = decision.unfinished or self._room_bytes() < room_bytes  # others fit what is left
            if not (again and decision.releases) and not decision.preemptions:
                return

    def _room_bytes(self) -> int:
        """Return the largest device memory of the free slots; 0 without one."""
        taken = Counter(holding.gpu_type for holding, _ in self._held.values())
        return max((size for name, (slots, size) in self._kinds.items() if taken[name] < slots), default=0)

    def _first(self, lane: Lane, most: int, room_bytes: int) -> Iterable[Waiting]:
        """Return the first jobs of a lane; of a lane for any type those that a free slot can hold, as a round does."""
        jobs = (job for _, job in self._lines[lane])
        if lane.gpu != "auto" or self._rules.preemption:
            return islice(jobs, most)
        return islice((job for job in jobs if (job.memory_bytes or 0) <= room_bytes), most)

    def _aged(self, lane: Lane, most: int, at: datetime) -> list[Waiting]:
        """Return the oldest jobs of a lane, if they have aged."""
        line = self._by_age[lane]
        while line and line[0].id not in self._waiting:
            line.popleft()
        if not line or not aged(line[0], self._rules, at):
            return []
        return [job for job in islice(line, 2 * most) if job.id in self._waiting and aged(job, self._rules, at)]

    def _standing(self, at: datetime) -> dict[str, Account]:
        accounts = {
            name: replace(account, used_s=decayed(*self._elapsed(name, at), self._rules.half_life_s))
            for name, account in self._accounts.items()
        }
        competing = {lane.tenant for lane in self._lines} | {holding.tenant for holding, _ in self._held.values()}
        shares = Shares(accounts, [holding for holding, _ in self._held.values()], self._rules, at)
        levels = [shares.level(name)[0] for name in competing & self._competing]
        for name in competing - self._competing:
            account = accounts.get(name, Account())
            used_s = returning(account.used_s, account.weight, levels, self._rules.credit_s)
            self._use[name] = (used_s, at)
            accounts[name] = replace(account, used_s=used_s)
        self._accounts, self._competing = accounts, competing
        return accounts

    def _elapsed(self, tenant: str, at: datetime) -> tuple[float, float]:
        used_s, since = self._use.get(tenant, (0.0, at))
        return used_s, (at - since).total_seconds()

    def _start(self, release: Release, at: datetime) -> None:
        task = self._tasks[release.job_id]
        seen = self._as_seen(task.job)
        line = self._lines[seen.lane]
        del line[next(place for place, (_, job) in enumerate(line) if job.id == seen.id)]
        if not line:
            del self._lines[seen.lane]
        self._waiting.discard(seen.id)
        gpu_type = release.gpu_type or ""
        takes_s = task.takes_s(gpu_type) * self._left[seen.id]
        expected = task.job.expected_s
        self._starts += 1
        holding = Holding(
            tenant=seen.tenant, gpu_type=release.gpu_type, job_id=seen.id, worker=release.worker,
            job_class=task.job.job_class, since=at, preemptible=True,
            expected_s=expected[gpu_type] * self._left[seen.id] if gpu_type in expected else None,
        )  # fmt: skip
        self._held[seen.id] = (holding, self._starts)
        heapq.heappush(self._ends, (at + timedelta(seconds=takes_s), seen.id, self._starts))
        waited_s = (at - task.job.created_at).total_seconds()
        self._forecasts.compare(seen.id, waited_s)
        self.outcome.waited_s.setdefault(seen.id, waited_s)

    def _end(self, at: datetime, job_id: str, start: int) -> None:
        held = self._held.get(job_id)
        if held is None or held[1] != start:  # a preemption ended this run before
            return
        task, gpu_type = self._tasks[job_id], held[0].gpu_type or ""
        formula_s = self._formula[job_id].get(gpu_type)
        if formula_s:
            self._forecasts.learn(task.kind, task.takes_s(gpu_type) / formula_s)
        self._close(job_id, at, done=True)

    def _preempt(self, job_id: str, at: datetime) -> None:
        holding, _ = self._held[job_id]
        task = self._tasks[job_id]
        takes_s = task.takes_s(holding.gpu_type or "")
        self._left[job_id] -= holding.elapsed_s(at) / takes_s if takes_s else 1.0
        self._close(job_id, at, done=False)
        self.outcome.preemptions += 1
        self._enter(replace(task.job, recovered=True))

    def _close(self, job_id: str, at: datetime, *, done: bool) -> None:
        holding, _ = self._held.pop(job_id)
        seconds = holding.elapsed_s(at)
        used_s = decayed(*self._elapsed(holding.tenant, at), self._rules.half_life_s) + seconds
        self._use[holding.tenant] = (used_s, at)
        ended_s = (at - BEGINNING).total_seconds()
        self.outcome.runs.append(
            Run(
                job_id=job_id, tenant=self._tasks[job_id].job.tenant, gpu_type=holding.gpu_type or "",
                started_s=ended_s - seconds, ended_s=ended_s, done=done,
            )
        )  # fmt: skip
