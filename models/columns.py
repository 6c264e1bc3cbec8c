"""Defines typed models of the JSON columns of a job's row.

A stage writes the trainer's own result into its column, and these models read the columns back. They ignore fields that
a newer version wrote, and a field that came later has a default, so that rows of every version can be read. The models
here are light: every command loads them. ``jobs.stage_results`` has the results of stages in full.
"""

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from ..storage.json_values import JsonObject

if TYPE_CHECKING:  # a program without a record reads these models, too
    from .tables import Job


class StoredModel(BaseModel):
    """A model of a JSON column."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @classmethod
    def read(cls, column: JsonObject | None) -> Self | None:
        """Read a column; None where it is empty."""
        return None if column is None else cls.model_validate(column)


class TrainingFacts(StoredModel):
    """The facts of a training that its start reports, and that its result repeats."""

    trainable_parameters: int | None = None
    total_parameters: int | None = None
    train_loss: float | None = None

    @property
    def trainable_share(self) -> float | None:
        """The part of all weights that is trained."""
        if self.trainable_parameters is None or not self.total_parameters:
            return None
        return self.trainable_parameters / self.total_parameters


class BaseIdentity(StoredModel):
    """The name and the revision of the column ``base``: equal identities are equal weights."""

    name: str = ""
    revision: str = ""


class Compared(StoredModel):
    """The champion that an evaluation measured a challenger against."""

    name: str
    version: int = 0
    job: str | None = None
    compared: bool = False
    reason: str = ""


class Evaluated(StoredModel):
    """The column ``evaluation``: the result of ``evaluate`` without its metrics, which have a column of their own."""

    uri: str = Field("", description="folder with rows.<set>.jsonl; empty where only the served base was measured")
    samples: list[dict[str, str]] = Field(default_factory=list[dict[str, str]])
    checks: list[JsonObject] = Field(default_factory=list[JsonObject])
    servable: JsonObject = Field(default_factory=dict[str, Any])
    metrics_version: int = Field(1, description="of the measures' meaning")
    champion: Compared | None = None
    serving: dict[str, JsonObject] = Field(default_factory=dict[str, JsonObject])


class Outcome(StoredModel):
    """The entry ``champion`` of the column ``summary``: the gate's decision about a job."""

    name: str
    promote: bool
    reason: str
    figures: JsonObject | None = None
    against: str | None = None
    stale: bool | None = None


class JobError(StoredModel):
    """The column ``error``: the reason why a job failed."""

    code: str = "internal"
    message: str = ""
    hint: str = ""
    stage: str = ""
    log_tail: str = ""
    facts: JsonObject = Field(default_factory=dict[str, Any])


DEVICE_S = "device_s"


class Progress(StoredModel):
    """The column ``progress``: the last report of a running stage.

    ``device_s`` is there where several jobs use the device at once: the seconds that are this stage's share.
    """

    phase: str | None = None
    loss: float | None = None
    tokens_per_s: float | None = None
    eta_s: float | None = None
    gpu_memory_bytes: int | None = None
    gpu_utilisation: float | None = None
    device_s: float | None = None


def error_of(job: "Job") -> JobError:
    """Read the error of a failed job; an empty one, of code ``internal``, where the row has none."""
    return JobError.read(job.error) or JobError()


def request_of(job: "Job") -> JsonObject:
    """Read the Celery request of the job's caller; empty for a job that no message submitted."""
    return job.request or {}


def faults_of(job: "Job") -> dict[str, int]:
    """Read the number of the job's errors by code."""
    return job.faults or {}


def outcome_of(job: "Job") -> Outcome | None:
    """Read the gate's decision about the job; None where it competed for no champion, or is not judged yet."""
    return Outcome.read(job.summary.get("champion")) if job.summary is not None else None


def rival_of(job: "Job") -> Compared | None:
    """Read the champion that the evaluation compared the job with; None without an evaluation or a champion."""
    found = Evaluated.read(job.evaluation)
    return found.champion if found is not None else None


def serving_of(job: "Job") -> dict[str, JsonObject]:
    """Read the evaluations of the adapter as it is served, by the dtype of the base."""
    found = Evaluated.read(job.evaluation)
    return found.serving if found is not None else {}


def measured_sets(job: "Job") -> dict[str, JsonObject]:
    """Read the metrics of the job by held-out set, the deciding set first; empty before its evaluation."""
    sets: dict[str, JsonObject] = job.metrics.get("sets") or {} if job.metrics is not None else {}
    return sets


def receipt_sets(job: "Job") -> dict[str, JsonObject]:
    """Read the facts of the job's prepared sets by name from the receipt of its data."""
    receipt: JsonObject = job.prepared.get("receipt") or {} if job.prepared is not None else {}
    return receipt.get("sets") or {}


def max_length_of(job: "Job") -> int | None:
    """Return the tokens of the longest row that the job trains on; None while unknown."""
    known: JsonObject = job.resolved or job.prepared or {}
    return known.get("max_length")


def quantization_of(job: "Job") -> Literal["nf4", "none"] | None:
    """Return the quantization of the base that the job trained on; None before its training."""
    return job.resolved["quantization"] if job.resolved is not None else None


def training_facts(*sources: JsonObject | None) -> TrainingFacts:
    """Merge the facts of a training from an event and a result; a later source takes precedence."""
    merged: JsonObject = {}
    for source in sources:
        merged |= source or {}
    return TrainingFacts.model_validate(merged)


def evaluated_of(job: "Job") -> Evaluated:
    """Read the result of the job's evaluation.

    Raises:
        ValueError: The job was not evaluated yet.
    """
    return Evaluated.model_validate(job.evaluation)


def base_identity(job: "Job") -> BaseIdentity:
    """Read the identity of the job's base; an empty one before the job is prepared."""
    return BaseIdentity.read(job.base) or BaseIdentity()
