"""Serves the whole logs of a job, piece by piece; ``jobs/ID/log`` has the end of the newest one."""

from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel

from ...services.native import logs
from ...settings.settings import get_settings
from ..answers import ERRORS
from ..principal import Caller
from .jobs import JobId

router = APIRouter(prefix="/v1/celora/jobs/{job_id}/logs", tags=["celora"], responses=ERRORS)


class LogObject(BaseModel):
    """A log: that of one stage in one attempt."""

    name: str
    size_bytes: int


class Logs(BaseModel):
    """The logs of a job in the order of its work; ``ended`` is True once the job has ended."""

    object: Literal["list"] = "list"
    data: list[LogObject]
    ended: bool


class PieceObject(BaseModel):
    """A piece of a log; ``next`` is the offset of the next one, and ``more`` says whether it is there already."""

    text: str
    next: int
    more: bool


@router.get("")
def list_logs(caller: Caller, job_id: JobId) -> Logs:
    """List the logs of a job."""
    found, ended = logs.list_logs(caller.tenant, job_id, get_settings())
    return Logs(data=[LogObject(**asdict(one)) for one in found], ended=ended)


@router.get("/{log}")
def read_log(
    caller: Caller,
    job_id: JobId,
    log: Annotated[str, Path(pattern=r"^[0-9]{3,6}-(prepare|train|evaluate|publish)\.log$", max_length=40)],
    after: Annotated[int, Query(ge=0, le=2**62, description="the offset at which the piece before ended")] = 0,
) -> PieceObject:
    """Return a piece of a log from an offset on."""
    return PieceObject(**asdict(logs.read_log(caller.tenant, job_id, log, after=after, settings=get_settings())))
