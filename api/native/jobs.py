"""Serves the reads of ``/v1/celora/jobs``: what OpenAI's form of a job has no place for."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.encoders import jsonable_encoder
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel

from ...errors import RequestError
from ...models.states import Status
from ...services.native import adapter_archive, job_reads, series
from ...services.openai.events import LARGEST
from ...settings.settings import get_settings
from ..answers import ERRORS
from ..pages import After
from ..principal import Caller

router = APIRouter(prefix="/v1/celora/jobs", tags=["celora"], responses=ERRORS)

JobId = Annotated[str, Path(max_length=128)]


class Jobs(BaseModel):
    """A page of jobs."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    has_more: bool


class EventObject(BaseModel):
    """An event of a job."""

    id: int
    attempt: int
    at: str
    level: str
    kind: str
    message: str
    data: dict[str, Any]


class Events(BaseModel):
    """Events of a job, in order; ``ended`` is True once the job has ended."""

    object: Literal["list"] = "list"
    data: list[EventObject]
    ended: bool


class Series(BaseModel):
    """Measurements by name, each a list of step and value."""

    job_id: str
    series: dict[str, list[tuple[int, float]]]


@router.get("")
def list_jobs(
    caller: Caller,
    status: Annotated[Status | None, Query()] = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Jobs:
    """List the tenant's jobs, the newest first."""
    found, more = job_reads.listed(caller.tenant, status=status, after=after, limit=limit)
    return Jobs(data=jsonable_encoder(found), has_more=more)


@router.get("/{job_id}")
def summary(caller: Caller, job_id: JobId) -> dict[str, Any]:
    """Return everything about a job: progress, cost, measurements, the reason why it waits."""
    return jsonable_encoder(job_reads.summary(caller.tenant, job_id))


@router.get("/{job_id}/receipt")
def receipt(caller: Caller, job_id: JobId) -> dict[str, Any]:
    """Return the receipt of a job's data: rows, tokens, findings, samples."""
    return jsonable_encoder(job_reads.receipt(caller.tenant, job_id))


@router.get("/{job_id}/estimate")
def estimate(caller: Caller, job_id: JobId) -> dict[str, Any]:
    """Return the estimate of a job's memory, time and cost."""
    return jsonable_encoder(job_reads.estimate(caller.tenant, job_id))


@router.get("/{job_id}/metrics")
def metrics(
    caller: Caller,
    job_id: JobId,
    name: Annotated[list[str] | None, Query(max_length=len(series.NAMES))] = None,
    points: Annotated[int, Query(ge=4, le=10_000)] = 500,
) -> Series:
    """Return the measurements of a job as series, reduced to a number of points; extremes stay."""
    names = name or ["train_loss", "eval_loss"]
    if unknown := [one for one in names if one not in series.NAMES]:
        raise RequestError(f"name: {unknown[0][:40]} is none of {', '.join(series.NAMES)}.", param="name")
    found = series.series(caller.tenant, job_id, list(dict.fromkeys(names)), points)
    return Series(job_id=job_id, series=found)


@router.get("/{job_id}/events")
def events(
    caller: Caller,
    job_id: JobId,
    after: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Events:
    """List a job's events in order, after the event of an id."""
    lines, ended = job_reads.events(caller.tenant, job_id, after_id=after, limit=limit)
    return Events(data=jsonable_encoder(lines), ended=ended)


@router.get("/{job_id}/log", response_class=PlainTextResponse)
def log(
    caller: Caller, job_id: JobId, last_bytes: Annotated[int, Query(ge=1, le=1 << 20)] = job_reads.TAIL_BYTES
) -> PlainTextResponse:
    """Return the end of what the job's processes wrote last."""
    return PlainTextResponse(job_reads.log_tail(caller.tenant, job_id, get_settings(), last_bytes))


@router.get(
    "/{job_id}/adapter",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}}},
)
def adapter(caller: Caller, job_id: JobId) -> StreamingResponse:
    """Send the published folder of the job's adapter as a tar archive."""
    name, parts = adapter_archive.archive(caller.tenant, job_id, get_settings())
    headers = {"content-disposition": f'attachment; filename="{_safe(name)}.tar"', "x-content-type-options": "nosniff"}
    return StreamingResponse(parts, media_type="application/x-tar", headers=headers)


def _safe(name: str) -> str:
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in name)
