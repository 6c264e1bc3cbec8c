"""Builds views of a job: frozen records for the command line, the exporter, Flower and the HTTP rooms; loads no SQL."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ..storage.json_values import JsonObject
from .columns import JobError, Outcome, Progress, training_facts
from .states import Reason, Stage, Status

if TYPE_CHECKING:  # a program without a record reads views, too
    from .tables import Job


@dataclass(frozen=True, kw_only=True)
class JobView:
    """A job as lists show it: the row's own columns, and the last report of its running stage.

    ``worker`` is the worker that runs it, ``adapter`` the URI of its adapter, ``loss`` the last loss that training
    reported, else the mean of the run. ``phase``, ``tokens_per_s`` and ``eta_s`` are known of a running job alone. The
    fields of ``INTERNAL`` are for celora's own programs; ``plain`` leaves them out.
    """

    id: str
    status: Status
    stage: Stage
    reason: Reason
    wait_reason: str
    cancel_requested: bool
    tenant: str
    user: str
    name: str | None
    gpu: str
    gpu_type: str | None
    queue: str | None
    priority: int
    attempt: int
    stale_attempts: int
    step: int
    steps: int | None
    resume_step: int | None
    created_at: datetime
    sent_at: datetime | None
    started_at: datetime | None
    released_at: datetime | None
    finished_at: datetime | None
    dataset_sha256: str | None
    memory_bytes: int | None
    metrics: JsonObject | None
    warnings: list[str]
    error: JsonObject | None
    log_uri: str | None
    gpu_seconds: float
    cost: float
    paused: bool
    pause_requested: bool
    faults: JsonObject | None
    adjusted: JsonObject | None
    retry_of: str | None
    resume_of: str | None
    train_s: float
    base_model: str | None
    worker: str | None
    adapter: str | None
    progress: JsonObject | None
    phase: str | None
    loss: float | None
    tokens_per_s: float | None
    eta_s: float | None
    publication: int
    lease_until: datetime | None
    gpu_memory_bytes: int | None
    gpu_utilisation: float | None

    def plain(self) -> JsonObject:
        """Return the view as a plain dict, in the order of its fields."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in INTERNAL}
        return {name: value.value if isinstance(value, StrEnum) else value for name, value in values.items()}

    @property
    def failure(self) -> JobError:
        """The reason why the job failed; an empty one, of code ``internal``, where the row has none."""
        return JobError.read(self.error) or JobError()

    @property
    def ended(self) -> bool:
        """True once the job is completed, failed or cancelled."""
        return self.status.final


INTERNAL = frozenset({"publication", "lease_until", "gpu_memory_bytes", "gpu_utilisation"})
"""Fields of a view that are no part of the output of commands."""


@dataclass(frozen=True, kw_only=True)
class JobDetail(JobView):
    """A job as its own page shows it.

    ``stage_seconds`` is summed over the attempts; ``datasets`` holds name, version and sha256 of each dataset that the
    job used, by role; ``continue_from`` names the adapter that it trains on, as JOB or JOB@STEP; ``prepared`` says
    whether its data is there still; ``checkpoint_step`` is the furthest step from which it or a retry of it may
    continue; ``preference`` counts people's choices, by rival; ``estimate`` is the estimate of its time and memory
    beside its own (``queue.estimates``).
    """

    stage_seconds: dict[str, float]
    trainable_parameters: int | None
    trainable_share: float | None
    datasets: JsonObject
    continue_from: str | None
    prepared: bool
    checkpoint_step: int | None
    preference: list[JsonObject]
    estimate: JsonObject | None
    evaluation: JsonObject | None
    summary: JsonObject | None

    @property
    def outcome(self) -> Outcome | None:
        """The gate's decision about the job; None where it competed for no champion, or is not judged yet."""
        return Outcome.read((self.summary or {}).get("champion"))


def view_of(job: "Job", waits: Mapping[str, str]) -> JobView:
    """Build the view of a job's row; ``waits`` has the sentence of each job that waits (``queue.lane_reasons``)."""
    return JobView(**view_fields(job, waits))


def view_fields(job: "Job", waits: Mapping[str, str]) -> dict[str, Any]:
    """Read the fields of a job's view from its row, and from the sentences of those that wait."""
    last = Progress.read(job.progress) or Progress()
    running = last if job.status is Status.RUNNING else Progress()
    loss = last.loss if "loss" in last.model_fields_set else training_facts(job.result).train_loss
    made = {
        "wait_reason": waits.get(job.id, ""),
        "base_model": job.spec.get("base_model"),
        "worker": job.worker_id,
        "adapter": job.adapter_uri,
        "phase": running.phase,
        "loss": loss,
        "tokens_per_s": running.tokens_per_s,
        "eta_s": running.eta_s,
        "gpu_memory_bytes": running.gpu_memory_bytes,
        "gpu_utilisation": running.gpu_utilisation,
    }
    return {field.name: getattr(job, field.name) for field in fields(JobView) if field.name not in made} | made
