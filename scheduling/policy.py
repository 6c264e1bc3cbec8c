"""Which waiting job gets which slot: a pure function over plain records.

Order: recovered jobs first, then round-robin over tenants (who holds the fewest slots goes first), then the tenant's
own priorities, then first in, first out. ``auto`` takes the cheapest type with a free slot whose memory fits the
estimate. A job that gets nothing gets the reason in words. Fairness by use, reservations and preemption come later,
behind the same function.
"""

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ..models.states import Stage
from ..settings.gpus import GpuType
from . import explain


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A pending job, as far as its turn depends on it.

    Attributes:
        id: The job.
        tenant: Who pays.
        stage: What it waits for; prepare needs a prep slot, train and evaluate a GPU's, publish none.
        gpu: A GPU type, or ``auto``.
        priority: Higher runs sooner, within the tenant.
        created_at: When it was accepted.
        recovered: Whether it ran before and was given back; such jobs go to the front.
        memory_bytes: Device memory it needs at least; None while unknown.
    """

    id: str
    tenant: str
    stage: Stage
    gpu: str
    priority: int
    created_at: datetime
    recovered: bool = False
    memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Holding:
    """A job that was sent or runs, and so holds a slot.

    Attributes:
        tenant: Who pays.
        gpu_type: Whose slot; None for a prep slot.
        outside: Whether the slot is no worker's (``celora run-job``): it counts for the tenant alone.
    """

    tenant: str
    gpu_type: str | None
    outside: bool = False


@dataclass(frozen=True, kw_only=True)
class Node:
    """A worker that is online.

    Attributes:
        kind: gpu, prep or control.
        gpu_type: The catalogue's name of its device's type.
        memory_bytes: Its device's memory.
        slots: How many jobs it carries at a time.
        name: Its own.
        obstacle: Why it takes no work now; empty if it does.
    """

    kind: str
    gpu_type: str | None = None
    memory_bytes: int = 0
    slots: int = 1
    name: str = ""
    obstacle: str = ""


@dataclass(frozen=True, kw_only=True)
class Release:
    """A job whose turn it is; ``gpu_type`` is None for a prep slot and for publish."""

    job_id: str
    stage: Stage
    gpu_type: str | None = None


@dataclass(kw_only=True)
class Decision:
    """Who goes, and why the others wait."""

    releases: list[Release] = field(default_factory=list[Release])
    waits: dict[str, str] = field(default_factory=dict[str, str])


def decide(
    jobs: Sequence[Waiting],
    nodes: Sequence[Node],
    holdings: Sequence[Holding],
    *,
    types: Mapping[str, GpuType],
    quota: Mapping[str, int | None],
) -> Decision:
    """Give the free slots to the waiting jobs.

    Args:
        jobs: Every pending job.
        nodes: The workers that are online.
        holdings: The jobs that hold a slot now.
        types: The GPU catalogue, for prices.
        quota: Slots that a tenant may hold at a time; None, or no entry, is no limit.
    """
    board = _Board(nodes, holdings, types, quota)
    decision = Decision()
    for job in _in_turn(jobs, board):
        release, why = board.place(job)
        if release is not None:
            decision.releases.append(release)
        else:
            decision.waits[job.id] = why
    return decision


def _in_turn(jobs: Sequence[Waiting], board: "_Board") -> list[Waiting]:
    """The order in which slots are offered; round-robin is simulated with each tenant's growing count."""
    held = dict(board.held_by)
    ordered: list[Waiting] = []
    for recovered in (True, False):
        lines: dict[str, deque[Waiting]] = {}
        for job in sorted(jobs, key=lambda job: (-job.priority, job.created_at, job.id)):
            if job.recovered is recovered:
                lines.setdefault(job.tenant, deque()).append(job)
        heap = [(held.get(tenant, 0), line[0].created_at, line[0].id, tenant) for tenant, line in lines.items()]
        heapq.heapify(heap)
        while heap:
            count, _, _, tenant = heapq.heappop(heap)
            line = lines[tenant]
            ordered.append(line.popleft())
            held[tenant] = count + 1
            if line:
                heapq.heappush(heap, (count + 1, line[0].created_at, line[0].id, tenant))
    return ordered


class _Board:
    """The slots while a round is decided."""

    def __init__(
        self,
        nodes: Sequence[Node],
        holdings: Sequence[Holding],
        types: Mapping[str, GpuType],
        quota: Mapping[str, int | None],
    ) -> None:
        self.types, self.quota = types, quota
        self.total: dict[str | None, int] = {}
        self.memory: dict[str, int] = {}
        self.out: dict[str | None, list[str]] = {}
        for node in nodes:
            if node.obstacle:
                self.out.setdefault(node.gpu_type, []).append(f"{node.name} is {node.obstacle}")
            elif node.kind == "gpu" and node.gpu_type:
                self.total[node.gpu_type] = self.total.get(node.gpu_type, 0) + node.slots
                self.memory[node.gpu_type] = min(self.memory.get(node.gpu_type, node.memory_bytes), node.memory_bytes)
            elif node.kind == "prep":
                self.total[None] = self.total.get(None, 0) + node.slots
        self.used: dict[str | None, int] = {}
        self.held_by: dict[str, int] = {}
        self.ahead: dict[str | None, int] = {}
        for holding in holdings:
            if not holding.outside:
                self._take(holding.tenant, holding.gpu_type)
            elif holding.gpu_type is not None:
                self.held_by[holding.tenant] = self.held_by.get(holding.tenant, 0) + 1

    def place(self, job: Waiting) -> tuple[Release | None, str]:
        """A slot for the job, or the reason why it gets none."""
        if job.stage is Stage.PUBLISH:
            return Release(job_id=job.id, stage=job.stage), ""
        if job.stage is Stage.PREPARE:
            return self._offer(job, [None])
        limit = self.quota.get(job.tenant)
        if limit is not None and self.held_by.get(job.tenant, 0) >= limit:
            return None, explain.quota(job.tenant, limit)
        wanted = [job.gpu] if job.gpu != "auto" else self._fitting(job)
        if not wanted:
            return None, explain.nothing_fits(job.memory_bytes, self.memory, self._outs())
        return self._offer(job, list(wanted))

    def _fitting(self, job: Waiting) -> list[str]:
        need = job.memory_bytes or 0
        fitting = [name for name, memory_bytes in self.memory.items() if memory_bytes >= need]
        return sorted(fitting, key=lambda name: (self.types[name].price_per_hour if name in self.types else 0, name))

    def _outs(self) -> list[str]:
        return [why for gpu_type, lines in self.out.items() if gpu_type is not None for why in lines]

    def _offer(self, job: Waiting, wanted: Sequence[str | None]) -> tuple[Release | None, str]:
        for gpu_type in wanted:
            if self.used.get(gpu_type, 0) < self.total.get(gpu_type, 0):
                self._take(job.tenant, gpu_type)
                return Release(job_id=job.id, stage=job.stage, gpu_type=gpu_type), ""
        first = wanted[0]
        why = explain.busy(
            first,
            total=self.total.get(first, 0),
            used=self.used.get(first, 0),
            ahead=self.ahead.get(first, 0),
            out=self.out.get(first, ()),
        )
        self.ahead[first] = self.ahead.get(first, 0) + 1
        return None, why

    def _take(self, tenant: str, gpu_type: str | None) -> None:
        self.used[gpu_type] = self.used.get(gpu_type, 0) + 1
        if gpu_type is not None:
            self.held_by[tenant] = self.held_by.get(tenant, 0) + 1
