"""Defines the plain records that the policy decides over, and the decision that it gives back.

The dispatcher fills the records from the tables, ``celora simulate`` from a scenario: both call the same ``decide``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from ..models.states import JobClass, Stage
from .explain import Reason

NO_ESTIMATE: Mapping[str, float] = {}


class Lane(NamedTuple):
    """The jobs that wait for the same slots; ``labels`` are names, sorted and joined by commas."""

    stage: Stage
    job_class: JobClass
    gpu: str
    labels: str
    tenant: str


ReasonsByMemory = Sequence[tuple[int, Reason]]
"""The reasons of a lane by memory, in rising order: each holds for jobs that need more bytes than its number."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """The part of a pending job on which its turn depends.

    Attributes:
        id: The job.
        tenant: The tenant that pays.
        stage: The stage it waits for; prepare needs a prep slot, train and evaluate a GPU's, publish none.
        gpu: A GPU type, or ``auto``.
        priority: Higher runs sooner, within the tenant.
        created_at: The time at which it was accepted.
        recovered: True for a job that ran before and returned to pending; such jobs go to the front of their class.
        memory_bytes: Device memory it needs at least; None while unknown.
        job_class: Its class.
        labels: Names that the worker must carry, all of them; sorted and joined by commas.
        expected_s: Seconds that its stages on a GPU take, by GPU type, as far as known.
        base: Its base model; a worker that holds it in memory is preferred.
    """

    id: str
    tenant: str
    stage: Stage
    gpu: str
    priority: int
    created_at: datetime
    recovered: bool = False
    memory_bytes: int | None = None
    job_class: JobClass = JobClass.NORMAL
    labels: str = ""
    expected_s: Mapping[str, float] = field(default_factory=dict[str, float])
    base: str = ""

    @property
    def lane(self) -> Lane:
        """The lane in which the job waits."""
        return Lane(self.stage, self.job_class, self.gpu, self.labels, self.tenant)


@dataclass(frozen=True, kw_only=True)
class Holding:
    """A job that was sent or runs, and so holds a slot; or several that are alike, of which only the number is known.

    Attributes:
        tenant: The tenant that pays.
        gpu_type: The type of the slot; None for a prep slot.
        outside: True where the slot is no worker's (``celora run-job``): it counts for the tenant alone.
        job_id: The job.
        worker: The worker whose own queue the job was sent to; empty for a slot of the type's common queue.
        job_class: The class of the job.
        since: The start of its stage; None while its message is under way.
        expected_s: Seconds that the job holds the slot in all, an estimate; None where there is none.
        stopping: True if the job was asked to checkpoint and to give the slot back.
        preemptible: True if the job may be asked to: it trains, and was not asked a short while ago.
        jobs: The number of the jobs.
        runs_on: The worker that runs the job, or to whose direct queue it was sent; empty where that is not known yet.
    """

    tenant: str
    gpu_type: str | None
    outside: bool = False
    job_id: str = ""
    worker: str = ""
    job_class: JobClass = JobClass.NORMAL
    since: datetime | None = None
    expected_s: float | None = None
    stopping: bool = False
    preemptible: bool = False
    jobs: int = 1
    runs_on: str = ""

    def elapsed_s(self, at: datetime) -> float:
        """Seconds that the job has held the slot."""
        return max(0.0, (at - self.since).total_seconds()) if self.since else 0.0


@dataclass(frozen=True, kw_only=True)
class Node:
    """A worker that is online, or several that are alike; ``slots`` are then those of all.

    Attributes:
        kind: gpu, prep or control.
        gpu_type: The catalogue's name of its device's type.
        memory_bytes: Its device's memory.
        slots: The number of jobs that it runs at a time.
        name: The worker's name; empty for several.
        obstacle: The reason why it takes no work now; empty if it takes work.
        tenant: The tenant for which the worker is reserved; empty for all.
        labels: The names that it carries.
        bases: The base models that it holds in memory.
        warm: The base models in memory of each worker of several alike that a message can mean, by its name.
    """

    kind: str
    gpu_type: str | None = None
    memory_bytes: int = 0
    slots: int = 1
    name: str = ""
    obstacle: str = ""
    tenant: str = ""
    labels: frozenset[str] = frozenset()
    bases: frozenset[str] = frozenset()
    warm: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])

    @property
    def own_queue(self) -> bool:
        """True for a worker that takes only messages that mean it: it is reserved or carries labels."""
        return bool(self.tenant or self.labels)


@dataclass(frozen=True, kw_only=True)
class Account:
    """The standing of a tenant.

    Attributes:
        weight: Its share beside the weights of the others; above 0.
        max_gpus: Slots that it may hold at a time; None is no limit.
        used_s: GPU seconds that it used of late, decayed to now (``fair_share.decayed``).
        blocked: The reason why no job of the tenant may start; None if one may.
        max_jobs: Jobs that it may have worked on at once; None is no limit.
        working: Its jobs that are worked on now.
    """

    weight: float = 1.0
    max_gpus: int | None = None
    used_s: float = 0.0
    blocked: Reason | None = None
    max_jobs: int | None = None
    working: int = 0


STANDARD = Account()
"""The standing of a tenant of which nothing is known."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The operator's choices.

    Attributes:
        half_life_s: Seconds in which the use of a tenant comes to count half.
        credit_s: GPU seconds, for a weight of 1, that a tenant may be behind the others when it competes again.
        aging_s: A job that waited so long comes before younger jobs of its tenant, whatever their priority, and counts
            one class higher, up to normal.
        unknown_s: GPU seconds that a job without an estimate is charged for while it runs.
        auto_wait_s: Seconds that an ``auto`` job may be made to wait for a cheaper type.
        preemption: True if an urgent job may take the slot of a job of a lower class.
    """

    half_life_s: float = 24 * 3600.0
    credit_s: float = 3600.0
    aging_s: float = 24 * 3600.0
    unknown_s: float = 1800.0
    auto_wait_s: float = 0.0
    preemption: bool = False


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The GPU type that ``auto`` took, and why.

    Attributes:
        gpu_type: The type.
        need_bytes: The estimate of the job's memory; None where there is none.
        fitting: The types that fit and were considered, the cheapest first.
        passed: Those of them that are cheaper and had no free slot for the job.
    """

    gpu_type: str
    need_bytes: int | None
    fitting: tuple[str, ...]
    passed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Release:
    """A job that gets a slot; ``gpu_type`` is None for a prep slot and for publish.

    ``worker`` names the worker whose own queue gets the message; it is empty for the common queue of the type.
    ``direct`` says that this worker reads the common queue as well: the job takes one of its slots, and the message
    prefers the worker that holds the base. ``choice`` is there where the job asked for ``auto``.
    """

    job_id: str
    stage: Stage
    gpu_type: str | None = None
    worker: str = ""
    choice: Choice | None = None
    direct: bool = False


@dataclass(frozen=True, kw_only=True)
class Preemption:
    """A running job that checkpoints and waits, so that an urgent one gets its slot."""

    job_id: str
    for_job: str


@dataclass(kw_only=True)
class Decision:
    """The jobs that get a slot, those that give one back, and the reason of each job that waits.

    Attributes:
        releases: The jobs that get a slot.
        preemptions: The jobs that give their slot back.
        waits: The reason of each other job.
        lanes: The reasons of whole lanes; lanes that are alike share one object.
        unfinished: True where the jobs that were given did not suffice to fill the free slots; another round follows.
    """

    releases: list[Release] = field(default_factory=list[Release])
    preemptions: list[Preemption] = field(default_factory=list[Preemption])
    waits: dict[str, Reason] = field(default_factory=dict[str, Reason])
    lanes: dict[Lane, ReasonsByMemory] = field(default_factory=dict[Lane, ReasonsByMemory])
    unfinished: bool = False
