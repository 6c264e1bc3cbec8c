"""Serves the changes of ``/v1/celora/jobs``: cancel, pause, resume, retry."""

from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from ...errors import RequestError
from ...models.scope.scope import Scope
from ...models.spec import JobSpec
from ...services import jobs
from ...services.openai.job_form import RESERVED, named_refusals
from ...services.openai.jobs import find
from ...services.openai.required_rows import placed_changes
from ..answers import ERRORS
from ..body import body_of, read_model
from ..principal import Writer
from .jobs import JobId, summary

router = APIRouter(prefix="/v1/celora/jobs", tags=["celora"], responses=ERRORS)


class ResumeForm(BaseModel):
    """The request that resumes a job; ``budget`` is a new one for a job that has used its own."""

    model_config = ConfigDict(extra="forbid")

    budget: Annotated[float, Field(gt=0, le=1e9, strict=True)] | None = None


class RetryForm(BaseModel):
    """The request that retries a job, with fields that the new job has otherwise."""

    model_config = ConfigDict(extra="forbid")

    changes: Annotated[dict[str, Any], Field(max_length=100)] = Field(default_factory=dict)


@router.post("/{job_id}/cancel")
def cancel(caller: Writer, job_id: JobId) -> dict[str, Any]:
    """Cancel a job; ``answer`` is ``cancelled``, or ``cancelling`` while its worker stops it."""
    find(caller.tenant, job_id)
    answer = jobs.cancel(job_id, scope=Scope.of(caller.tenant))
    if answer == "final":
        raise _conflict("the job has ended: it cannot be cancelled.")
    return {**summary(caller, job_id), "answer": answer}


@router.post("/{job_id}/pause")
def pause(caller: Writer, job_id: JobId) -> dict[str, Any]:
    """Pause a job; ``answer`` is ``paused``, or ``pausing`` while a running one saves a checkpoint."""
    find(caller.tenant, job_id)
    answer = jobs.pause(job_id, scope=Scope.of(caller.tenant))
    if answer in ("final", "cancelling"):
        raise _conflict("the job has ended, or is ending: it cannot be paused.")
    return {**summary(caller, job_id), "answer": answer}


@router.post("/{job_id}/resume", openapi_extra=body_of(ResumeForm, required=False))
async def resume(request: Request, caller: Writer, job_id: JobId) -> dict[str, Any]:
    """Resume a paused job, with a new budget where it has used its own; ``resumed`` says whether it was paused."""
    form = await read_model(request, ResumeForm)

    def change() -> dict[str, Any]:
        if find(caller.tenant, job_id).view.ended:
            raise _conflict("the job has ended: it cannot be resumed.")
        resumed = jobs.resume(job_id, budget=form.budget, scope=Scope.of(caller.tenant))
        return {**summary(caller, job_id), "resumed": resumed}

    return await anyio.to_thread.run_sync(change)


@router.post("/{job_id}/retry", openapi_extra=body_of(RetryForm, required=False))
async def retry(request: Request, caller: Writer, job_id: JobId) -> dict[str, Any]:
    """Make a new job of a failed or cancelled one; it goes on from its last good checkpoint where that fits."""
    form = await read_model(request, RetryForm)
    for name in form.changes:
        if name in RESERVED or name not in JobSpec.model_fields:
            place = f"changes.{name[:100]}"
            raise RequestError(f"{place} is no field that may change.", reason="unknown_parameter", param=place)

    def change() -> dict[str, Any]:
        find(caller.tenant, job_id)
        changes = placed_changes(caller.tenant, form.changes)
        with named_refusals(lambda name: f"changes.{name}"):
            made = jobs.retry(job_id, changes, new_id=f"ftjob-{jobs.new_job_id()}", scope=Scope.of(caller.tenant))
        return summary(caller, made)

    return await anyio.to_thread.run_sync(change)


def _conflict(sentence: str) -> RequestError:
    headers = {"x-should-retry": "false"}
    return RequestError(sentence, reason="invalid_state", status=409, headers=headers)
