"""Counts the slots of the workers while a round is decided, and finds one for a job.

The workers of a GPU type form one pool and read one queue. A worker that is reserved for a tenant, or carries labels,
is a pool of its own: it reads its own queue alone, and a job is sent to it by name. A job takes a slot that is reserved
for its tenant first, then a common one, then that of the worker with the fewest labels that the job did not ask for; so
a special worker stays free for those that need it. Among the workers of a pool the message prefers one that holds the
job's base in memory and does nothing else; that choice changes no job's turn, since the slots of a pool are equal.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ..models.states import Stage
from ..settings.gpus import GpuType
from . import explain
from .explain import Reason
from .records import STANDARD, Account, Choice, Holding, Node, Release, Rules, Waiting


@dataclass(kw_only=True)
class Pool:
    """Slots that are equal to a job: those of a GPU type's common queue, or those of one special worker."""

    gpu_type: str | None
    worker: str = ""
    tenant: str = ""
    labels: frozenset[str] = frozenset()
    bases: frozenset[str] = frozenset()
    warm: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    busy: set[str] = field(default_factory=set[str])
    memory_bytes: int = 0
    total: int = 0
    used: int = 0
    ends: list[tuple[datetime, float]] = field(default_factory=list[tuple[datetime, float]])

    def admits(self, job: Waiting) -> bool:
        """Return whether the job may run here, memory aside; labels are a GPU worker's, and prepare asks for none."""
        wanted = set(job.labels.split(",")) if job.labels and job.stage.on_gpu else set[str]()
        return self.tenant in ("", job.tenant) and wanted <= self.labels

    def distance(self, job: Waiting) -> tuple[bool, int, bool, str]:
        """Return the order in which a job tries the pools of one type."""
        spare = len(self.labels) - (job.labels.count(",") + 1 if job.labels else 0)
        return (self.tenant != job.tenant, spare, job.base not in self.bases, self.worker)

    def idle_with(self, base: str) -> str:
        """Return a worker that holds the base in memory and runs nothing, by its name; empty where there is none."""
        return next((name for name in sorted(self.warm) if base in self.warm[name] and name not in self.busy), "")


class Slots:
    """The slots of a round.

    Args:
        nodes: The workers that are online.
        holdings: The jobs that hold a slot now.
        types: The GPU catalogue, for prices.
        rules: The operator's choices.
        at: The present time; without one, no job waits for a cheaper type.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        holdings: Iterable[Holding],
        types: Mapping[str, GpuType],
        rules: Rules,
        at: datetime | None = None,
    ) -> None:
        self._types, self._rules, self._at = types, rules, at
        self.pools: dict[tuple[str | None, str], Pool] = {}
        self.obstacles: dict[str | None, list[str]] = {}
        self.held_by: dict[str, int] = {}
        self.started: dict[str, int] = {}
        self.ahead: dict[str | None, int] = {}
        for node in nodes:
            self._add(node)
        for holding in holdings:
            if not holding.outside:
                self._hold(holding)
            if holding.gpu_type is not None:
                self.held_by[holding.tenant] = self.held_by.get(holding.tenant, 0) + holding.jobs

    def _add(self, node: Node) -> None:
        if node.kind not in ("gpu", "prep") or (node.kind == "gpu" and not node.gpu_type):
            return
        gpu_type = node.gpu_type if node.kind == "gpu" else None
        if node.obstacle:
            self.obstacles.setdefault(gpu_type, []).append(f"{node.name} is {node.obstacle}")
            return
        key = (gpu_type, node.name if node.own_queue else "")
        pool = self.pools.get(key)
        if pool is None:
            facts = {"tenant": node.tenant, "labels": node.labels, "bases": node.bases} if node.own_queue else {}
            pool = self.pools[key] = Pool(gpu_type=gpu_type, worker=key[1], memory_bytes=node.memory_bytes, **facts)  # pyright: ignore[reportArgumentType]
        pool.warm |= node.warm
        pool.total += node.slots
        pool.memory_bytes = min(pool.memory_bytes, node.memory_bytes)

    def _hold(self, holding: Holding) -> None:
        pool = self.pools.get((holding.gpu_type, holding.worker))
        if pool is not None:
            pool.used += holding.jobs
            pool.busy.add(holding.runs_on)
            if holding.since is not None and holding.expected_s is not None:
                pool.ends.append((holding.since, holding.expected_s))

    def of_type(self, gpu_type: str | None) -> Iterator[Pool]:
        """Yield the pools of a GPU type, or those of the prep workers."""
        return (pool for pool in self.pools.values() if pool.gpu_type == gpu_type)

    def free(self, gpu_type: str | None) -> int:
        """Return the number of free slots of a type, special workers included."""
        return sum(max(0, pool.total - pool.used) for pool in self.of_type(gpu_type))

    def memory(self, job: Waiting) -> dict[str, int]:
        """Return the largest device memory by GPU type, of the slots that the job may take."""
        found: dict[str, int] = {}
        for pool in self.pools.values():
            if pool.gpu_type is not None and pool.admits(job):
                found[pool.gpu_type] = max(found.get(pool.gpu_type, 0), pool.memory_bytes)
        return found

    def place(self, job: Waiting, account: Account = STANDARD) -> Release | Reason:
        """Give the job a slot, or the reason why it gets none.

        Args:
            job: The job.
            account: The standing of its tenant.
        """
        if job.stage is Stage.PUBLISH:
            return Release(job_id=job.id, stage=job.stage)
        stopped = self.stopped(job.tenant, account, on_gpu=job.stage.on_gpu)
        if stopped is not None:
            return stopped
        if job.stage is Stage.PREPARE:
            return self._offer(job, [None])
        if job.gpu != "auto":
            return self._offer(job, [job.gpu])
        wanted = self.fitting(job)
        if not wanted:
            return self.nothing_fits(job)
        return self._offer(job, self._worth_it(wanted))

    def stopped(self, tenant: str, account: Account, *, on_gpu: bool) -> Reason | None:
        """Give the reason of a tenant that may start no job now; None below its limits."""
        if account.blocked is not None:
            return account.blocked
        working = account.working + self.started.get(tenant, 0)
        if account.max_jobs is not None and working >= account.max_jobs:
            return explain.max_jobs(account.max_jobs, working)
        if on_gpu and account.max_gpus is not None and self.held_by.get(tenant, 0) >= account.max_gpus:
            return explain.quota(tenant, account.max_gpus)
        return None

    def fitting(self, job: Waiting) -> list[str]:
        """List the GPU types whose memory fits an ``auto`` job, the cheapest first."""
        fitting = [name for name, size in self.memory(job).items() if size >= (job.memory_bytes or 0)]
        return sorted(fitting, key=lambda name: (self._types[name].price_per_hour if name in self._types else 0, name))

    def _worth_it(self, wanted: list[str]) -> list[str]:
        """Leave out the types that are dearer than one which is free soon enough for the operator."""
        if not self._rules.auto_wait_s:
            return wanted
        for number, name in enumerate(wanted):
            soon_s = self.next_free_s(name)
            if soon_s is not None and 0 < soon_s <= self._rules.auto_wait_s and not self.ahead.get(name):
                return wanted[: number + 1]
        return wanted

    def next_free_s(self, gpu_type: str | None) -> float | None:
        """Return the seconds until a slot of the type is expected to be free; None where no estimate says so."""
        if self.free(gpu_type):
            return 0.0
        if self._at is None:
            return None
        left = [
            max(0.0, expected_s - (self._at - since).total_seconds())
            for pool in self.of_type(gpu_type)
            for since, expected_s in pool.ends
        ]
        return max(1.0, min(left)) if left else None

    def _offer(self, job: Waiting, wanted: Sequence[str | None]) -> Release | Reason:
        for gpu_type in wanted:
            pool = self._pool_for(job, gpu_type)
            if pool is not None:
                pool.used += 1
                self.started[job.tenant] = self.started.get(job.tenant, 0) + 1
                if gpu_type is not None:
                    self.held_by[job.tenant] = self.held_by.get(job.tenant, 0) + 1
                warm = "" if pool.worker else pool.idle_with(job.base)
                pool.busy.add(warm)
                return Release(
                    job_id=job.id, stage=job.stage, gpu_type=gpu_type, worker=pool.worker or warm,
                    choice=_choice(job, gpu_type, wanted), direct=bool(warm),
                )  # fmt: skip
        first = wanted[0]
        why = self.busy(job, first, self.ahead.get(first, 0))
        self.ahead[first] = self.ahead.get(first, 0) + 1
        return why

    def _pool_for(self, job: Waiting, gpu_type: str | None) -> Pool | None:
        return next((pool for pool in self.usable(job, gpu_type) if pool.used < pool.total), None)

    def usable(self, job: Waiting, gpu_type: str | None) -> list[Pool]:
        """List the pools of a type that a job may take, free or not, in the order in which the job tries them."""
        need = job.memory_bytes or 0 if job.gpu == "auto" and gpu_type is not None else 0
        able = [pool for pool in self.of_type(gpu_type) if pool.admits(job) and pool.memory_bytes >= need]
        return sorted(able, key=lambda pool: pool.distance(job))

    def nothing_fits(self, job: Waiting) -> Reason:
        """Give the reason of an ``auto`` job for which no device has the memory."""
        lines = [why for gpu_type, each in self.obstacles.items() if gpu_type is not None for why in each]
        fitting = self.memory(job)
        special = any(pool.gpu_type is not None for pool in self.pools.values()) and not fitting
        return explain.nothing_fits(job.memory_bytes, fitting, lines, labels=job.labels, special=special)

    def busy(self, job: Waiting, gpu_type: str | None, ahead: int | None) -> Reason:
        """Give the reason of a job for which no slot of its type is free."""
        mine = [pool for pool in self.of_type(gpu_type) if pool.admits(job)]
        return explain.busy(
            gpu_type,
            total=sum(pool.total for pool in mine),
            used=sum(pool.used for pool in mine),
            ahead=ahead,
            obstacles=self.obstacles.get(gpu_type, ()),
            others=sum(pool.total for pool in self.of_type(gpu_type)) if not mine else 0,
            labels=job.labels,
        )


def _choice(job: Waiting, gpu_type: str | None, wanted: Sequence[str | None]) -> Choice | None:
    """Describe what ``auto`` chose; None for a job that names its type, and for a slot that is no GPU's."""
    if gpu_type is None or job.gpu != "auto":
        return None
    fitting = tuple(name for name in wanted if name is not None)
    passed = fitting[: fitting.index(gpu_type)]
    return Choice(gpu_type=gpu_type, need_bytes=job.memory_bytes, fitting=fitting, passed=passed)
