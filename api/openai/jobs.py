"""Serves ``/v1/fine_tuning/jobs``: create, list, retrieve, cancel, pause, resume, events, checkpoints."""

import re
import time
from typing import Annotated, Any, Literal, Self

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, ValidationError

from ...errors import RequestError
from ...models.openai.job_requests import MOST_LABELS
from ...services.openai import checkpoints, creation, events, jobs
from ...services.openai.job_form import JobForm
from ...settings.settings import get_settings
from ..answers import ERRORS, refusal
from ..body import body_of, read_json
from ..pages import After, Listed, Page
from ..principal import Caller, Writer
from .job_object import JobObject, job_object

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["jobs"], responses=ERRORS)

LONGEST_KEY = 255
LABEL = re.compile(r"metadata\[(?P<key>[^\]]{0,64})\]")
REPEATED = re.compile(r"0*[1-9][0-9]{0,8}")
"""The number of repetitions that a client counts, above none."""
Limit = Annotated[int, Query(ge=1, le=100)]
EventLimit = Annotated[int, Query(ge=1, le=1000)]
"""Scripts read a whole short history at once."""


@router.post("", openapi_extra=body_of(JobForm))
async def create(request: Request, caller: Writer) -> JobObject:
    """Accept a job; its files are read afterwards, and bad rows end it as failed."""
    fields = await read_json(request)
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= LONGEST_KEY:
        raise RequestError(f"Idempotency-Key must have 1 to {LONGEST_KEY} characters.", param="Idempotency-Key")
    retried = REPEATED.fullmatch(request.headers.get("x-stainless-retry-count", "")) is not None
    who = {"tenant": caller.tenant, "user": caller.name, "key_id": caller.key_id}
    origin = creation.Origin(**who, key=key, retried=retried)
    job_id = await anyio.to_thread.run_sync(creation.create, fields, origin, get_settings(), _refusal)
    return await anyio.to_thread.run_sync(lambda: _shown(jobs.find(caller.tenant, job_id)))


def _refusal(error: ValidationError) -> RequestError:
    return refusal(error.errors(include_url=False))


@router.get("")
def list_jobs(request: Request, caller: Caller, after: After = None, limit: Limit = 20) -> Page[JobObject]:
    """List the tenant's jobs, the newest first; ``metadata[KEY]=VALUE`` filters, and ``metadata=null`` does."""
    labels = wanted_labels(request.query_params.multi_items())
    found, more = jobs.page(caller.tenant, after=after, limit=limit, labels=labels)
    return Page[JobObject].of([_shown(job) for job in found], has_more=more)


def wanted_labels(query: list[tuple[str, str]]) -> dict[str, str] | None:
    """Read the filter by metadata: the labels that are asked for, or None for jobs without labels.

    Raises:
        RequestError: The filter has another form, or both forms.
    """
    labels = {found["key"]: value for name, value in query if (found := LABEL.fullmatch(name))}
    plain = [value for name, value in query if name == "metadata"]
    broken = [name for name, _ in query if name.startswith("metadata[") and not LABEL.fullmatch(name)]
    if broken or (plain and (labels or plain != ["null"])):
        raise RequestError("metadata: use metadata[KEY]=VALUE, or metadata=null alone.", param="metadata")
    if len(labels) > MOST_LABELS or len(labels) < sum(name.startswith("metadata[") for name, _ in query):
        raise RequestError(f"metadata: use up to {MOST_LABELS} labels, each once.", param="metadata")
    return None if plain else labels


@router.get("/{job_id}")
def retrieve(caller: Caller, job_id: str) -> JobObject:
    """Return a job."""
    return _shown(jobs.find(caller.tenant, job_id))


@router.post("/{job_id}/cancel")
def cancel(caller: Writer, job_id: str) -> JobObject:
    """Cancel a job: at once where it waits, else as soon as its process is gone."""
    return _shown(jobs.cancel(caller.tenant, job_id))


@router.post("/{job_id}/pause")
def pause(caller: Writer, job_id: str) -> JobObject:
    """Pause a job; a running one saves a checkpoint first."""
    return _shown(jobs.pause(caller.tenant, job_id))


@router.post("/{job_id}/resume")
def resume(caller: Writer, job_id: str) -> JobObject:
    """Resume a paused job."""
    return _shown(jobs.resume(caller.tenant, job_id))


class EventObject(Listed):
    """An event as clients read it."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]

    @classmethod
    def of(cls, event: events.EventView) -> Self:
        """Make the object of an event."""
        created_at = int(event.at.timestamp())
        return cls(
            id=event.id,
            created_at=created_at,
            level=event.level,
            message=event.message,
            type=event.kind,
            data=event.data,
        )


@router.get("/{job_id}/events")
def list_events(caller: Caller, job_id: str, after: After = None, limit: EventLimit = 20) -> Page[EventObject]:
    """List a job's events and measurements, the newest first."""
    found, more = events.page(caller.tenant, job_id, after=after, limit=limit)
    return Page[EventObject].of([EventObject.of(event) for event in found], has_more=more)


class CheckpointMetrics(BaseModel):
    """The measurements at a checkpoint; one that was not made is left out, since scripts format it as a number."""

    model_config = ConfigDict(extra="forbid")

    step: float
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None


class CheckpointObject(Listed):
    """A checkpoint as clients read it."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: CheckpointMetrics

    @classmethod
    def of(cls, one: checkpoints.CheckpointView) -> Self:
        """Make the object of a checkpoint."""
        measured = {
            "train_loss": one.train_loss,
            "train_mean_token_accuracy": one.train_accuracy,
            "valid_loss": one.valid_loss,
            "valid_mean_token_accuracy": one.valid_accuracy,
            "full_valid_loss": one.valid_loss,
            "full_valid_mean_token_accuracy": one.valid_accuracy,
        }
        known = {name: value for name, value in measured.items() if value is not None}
        return cls(
            id=one.id,
            created_at=int(one.created_at.timestamp()),
            fine_tuned_model_checkpoint=one.model,
            fine_tuning_job_id=one.job_id,
            step_number=one.step,
            metrics=CheckpointMetrics(step=one.step, **known),
        )


@router.get("/{job_id}/checkpoints", response_model_exclude_unset=False)
def list_checkpoints(caller: Caller, job_id: str, after: After = None, limit: Limit = 10) -> Page[CheckpointObject]:
    """List a job's checkpoints, the newest first."""
    found, more = checkpoints.page(caller.tenant, job_id, after=after, limit=limit)
    return Page[CheckpointObject].of([CheckpointObject.of(one) for one in found], has_more=more)


def _shown(found: jobs.Found) -> JobObject:
    return job_object(found, time.time())
