"""Reads a scenario of ``celora simulate``: a cluster, tenants with weights, the operator's choices, and jobs.

Jobs are written one by one, as ``celora simulate --export`` writes those of the record, or in bursts of many.

Example:
    .. code-block:: yaml

        cluster: [{type: h100, count: 8}, {type: l4, count: 16}]
        tenants: {vision: {weight: 2}, speech: {}}
        jobs:
          - {tenant: vision, count: 500, minutes: [10, 90]}
          - {tenant: speech, at_hours: 3, minutes: 30, gpu: h100, priority: 5}
"""

import random
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from ..errors import SettingsError
from ..models.states import JobClass, Stage
from ..settings.gpus import GpuType
from .records import Account, Node, Rules, Waiting
from .simulation import BEGINNING, Task

MOST_JOBS = 200_000
"""Jobs of a scenario; more would take a computer for hours."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Labels = Annotated[list[Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,31}$")]], Field(max_length=8)]
Factor = Annotated[float, Field(gt=0, le=100)]
Minutes = Annotated[float, Field(gt=0)]
Gib = Annotated[float, Field(ge=0, le=1_000_000)]
MOST_MINUTES = 100 * 365 * 24 * 60
"""Minutes from the beginning until which jobs may arrive."""
NO_LABELS: Labels = []


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Workers(_Part):
    """Workers of one kind."""

    type: str
    count: Annotated[int, Field(ge=1, le=100_000)] = 1
    memory_gib: Annotated[Gib, Field(gt=0)] | None = None
    tenant: str = ""
    labels: Labels = NO_LABELS


class Party(_Part):
    """A tenant."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    max_gpus: Annotated[int, Field(ge=0)] | None = None
    used_gpu_hours: Annotated[float, Field(ge=0)] = 0.0


class Burst(_Part):
    """Jobs that are alike; ``minutes`` is a number, or two between which each job's length lies.

    ``estimate`` is the formula's estimate divided by the true length, a number or two between which it lies; the jobs
    of a ``kind`` that have ended correct the estimates of those that come later.
    """

    tenant: Name
    count: Annotated[int, Field(ge=1)] = 1
    id: str | None = None
    at_hours: Annotated[float, Field(ge=0)] = 0.0
    every_minutes: Annotated[float, Field(ge=0)] = 0.0
    minutes: Minutes | tuple[Minutes, Minutes] | None = None
    seconds: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict[str, float])
    gpu: str = "auto"
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    job_class: JobClass = Field(JobClass.NORMAL, alias="class")
    labels: Labels = NO_LABELS
    memory_gib: Gib = 0.0
    estimated: bool = True
    estimate: Factor | tuple[Factor, Factor] = 1.0
    kind: str = ""
    recovered: bool = False

    @model_validator(mode="after")
    def _arrives_in_time(self) -> Self:
        if 60 * self.at_hours + self.every_minutes * (self.count - 1) > MOST_MINUTES:
            raise ValueError("its last job arrives after more than 100 years")
        return self


class Choices(_Part):
    """The operator's choices."""

    half_life_hours: Annotated[float, Field(gt=0)] = 24.0
    aging_hours: Annotated[float, Field(gt=0)] = 24.0
    auto_wait_minutes: Annotated[float, Field(ge=0)] = 0.0
    preemption: bool = False

    def rules(self) -> Rules:
        """Return the choices as the policy reads them."""
        return Rules(
            half_life_s=self.half_life_hours * 3600,
            aging_s=self.aging_hours * 3600,
            auto_wait_s=self.auto_wait_minutes * 60,
            preemption=self.preemption,
        )


class Scenario(_Part):
    """Everything that a simulation needs; ``seed`` chooses the lengths of the jobs of a burst."""

    cluster: Annotated[list[Workers], Field(min_length=1)]
    tenants: dict[Name, Party] = Field(default_factory=dict[str, Party])
    settings: Choices = Choices()
    jobs: Annotated[list[Burst], Field(min_length=1)]
    seed: int = 0
    version: Literal[1] = 1

    def nodes(self, types: Mapping[str, GpuType]) -> list[Node]:
        """Return the workers."""
        return [
            Node(
                kind="gpu", gpu_type=kind.type, name=f"{kind.type}-{group}-{number}", tenant=kind.tenant,
                labels=frozenset(kind.labels),
                memory_bytes=int(kind.memory_gib * 2**30) if kind.memory_gib else types[kind.type].memory_bytes,
            )
            for group, kind in enumerate(self.cluster)
            for number in range(kind.count)
        ]  # fmt: skip

    def accounts(self) -> dict[str, Account]:
        """Return the standing of the tenants at the beginning."""
        return {
            name: Account(weight=party.weight, max_gpus=party.max_gpus, used_s=party.used_gpu_hours * 3600)
            for name, party in self.tenants.items()
        }

    def tasks(self) -> list[Task]:
        """Return every job."""
        chance = random.Random(self.seed)  # noqa: S311  (lengths of made-up jobs)
        kinds = {kind.type for kind in self.cluster}
        return [task for number, burst in enumerate(self.jobs) for task in _tasks(burst, number, kinds, chance)]


def _tasks(burst: Burst, number: int, kinds: set[str], chance: random.Random) -> Iterator[Task]:
    for place in range(burst.count):
        seconds = dict(burst.seconds)
        if not seconds:
            low, high = burst.minutes if isinstance(burst.minutes, tuple) else (burst.minutes or 30.0,) * 2
            seconds = {"*": 60.0 * chance.uniform(low, high)}
        at = BEGINNING + timedelta(hours=burst.at_hours, minutes=burst.every_minutes * place)
        job = Waiting(
            id=burst.id if burst.id and burst.count == 1 else f"{burst.id or number}-{place:06d}",
            tenant=burst.tenant, stage=Stage.TRAIN, gpu=burst.gpu, priority=burst.priority, created_at=at,
            recovered=burst.recovered, memory_bytes=int(burst.memory_gib * 2**30) or None,
            job_class=burst.job_class, labels=",".join(sorted(burst.labels)),
            expected_s=_estimates(burst, seconds, kinds, chance),
        )  # fmt: skip
        yield Task(job=job, seconds=seconds, kind=burst.kind or str(number))


def _estimates(burst: Burst, seconds: Mapping[str, float], kinds: set[str], chance: random.Random) -> dict[str, float]:
    """Return the formula's seconds by GPU type; none for a job that is not estimated."""
    if not burst.estimated:
        return {}
    factor = chance.uniform(*burst.estimate) if isinstance(burst.estimate, tuple) else burst.estimate
    return {name: factor * seconds.get(name, seconds.get("*", 0.0)) for name in kinds}


def parse_scenario(fields: object, types: Mapping[str, GpuType]) -> Scenario:
    """Check a scenario.

    Args:
        fields: The content of the file.
        types: The GPU catalogue.

    Raises:
        SettingsError: A field is unknown, missing or out of range, a GPU type is in no catalogue, or there are too many
            jobs; the message says what would be accepted.
    """
    try:
        scenario = Scenario.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SettingsError(
            f"the scenario is wrong: {place}: {first['msg']}.", hint="See docs/queue.md for a scenario that works."
        ) from None
    named = {kind.type for kind in scenario.cluster} | {burst.gpu for burst in scenario.jobs} - {"auto"}
    if unknown := sorted(named - types.keys()):
        known = ", ".join(sorted(types))
        raise SettingsError(
            f"the scenario names the GPU type {unknown[0]}, which is in no catalogue.", hint=f"Use one of {known}."
        )
    if (count := sum(burst.count for burst in scenario.jobs)) > MOST_JOBS:
        raise SettingsError(f"the scenario has {count:,} jobs.", hint=f"Use at most {MOST_JOBS:,}.")
    return scenario
