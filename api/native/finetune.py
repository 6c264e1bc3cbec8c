"""Serves the routes at the root: ``POST /finetune`` starts a training, ``GET /finetune/{job_id}`` shows its state."""

from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ValidationError

from ...models.states import Status
from ...services.openai import jobs, short_jobs
from ...settings.settings import get_settings
from ..answers import ERRORS, refusal
from ..body import body_of, read_json
from ..principal import Caller, Writer

router = APIRouter(prefix="/finetune", tags=["finetune"], responses=ERRORS)


class Accepted(BaseModel):
    """The answer to an accepted job."""

    job_id: str
    status: Literal["queued"] = "queued"


class State(BaseModel):
    """The state of a job."""

    job_id: str
    status: str
    stage: str
    base_model: str
    model: str | None
    step: int
    steps: int | None
    loss: float | None
    error: str | None


@router.post("", openapi_extra=body_of(short_jobs.ShortJob, required=False))
async def finetune(
    request: Request,
    caller: Writer,
    base_model: Annotated[str | None, Query(max_length=500)] = None,
    dataset_path: Annotated[str | None, Query(max_length=2000)] = None,
    epochs: Annotated[int | None, Query(ge=1, le=50)] = None,
) -> Accepted:
    """Start a training; the fields stand in the query or in a JSON body."""
    query = {"base_model": base_model, "dataset_path": dataset_path, "epochs": epochs}
    fields = {**await read_json(request), **{name: value for name, value in query.items() if value is not None}}
    try:
        asked = short_jobs.ShortJob.model_validate(fields)
    except ValidationError as error:
        raise refusal(error.errors(include_url=False)) from None
    job_id = await anyio.to_thread.run_sync(short_jobs.submit, asked, caller, get_settings())
    return Accepted(job_id=job_id)


@router.get("/{job_id}")
def state(caller: Caller, job_id: str) -> State:
    """Show the state of a job."""
    found = jobs.find(caller.tenant, job_id)
    job = found.view
    return State(
        job_id=job.id,
        status="paused" if job.paused else job.status.value,
        stage=job.stage.value,
        base_model=found.model,
        model=found.model_id if job.status is Status.COMPLETED else None,
        step=job.step,
        steps=job.steps,
        loss=job.loss,
        error=found.failure.message if job.status is Status.FAILED else None,
    )
