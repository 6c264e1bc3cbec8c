"""Serves the look-ups behind the commands of a person elsewhere: ids, published adapters, the queue and its reasons."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel

from ...models.scope.scope import Scope
from ...services.native import lookups
from ...services.openai.jobs import find
from ...services.queue.listing import list_queue
from ...services.queue.why import why as explain
from ..answers import ERRORS
from ..principal import Caller
from .jobs import JobId
from .tenant import Listing

router = APIRouter(prefix="/v1/celora", tags=["celora"], responses=ERRORS)


class WholeId(BaseModel):
    """The whole id of a job, or that of a file."""

    id: str


class Published(BaseModel):
    """A published adapter; ``found_as`` says in words what its name names."""

    job_id: str
    name: str | None
    base: dict[str, Any] | None
    found_as: str


@router.get("/ids/{beginning}")
def whole_id(caller: Caller, beginning: Annotated[str, Path(min_length=1, max_length=128)]) -> WholeId:
    """Complete the beginning of an id of the tenant's jobs."""
    return WholeId(id=lookups.whole_id(caller.tenant, beginning))


@router.get("/adapters/{named}")
def published(caller: Caller, named: Annotated[str, Path(min_length=1, max_length=255)]) -> Published:
    """Find a published adapter by a champion's name, by its own name, or by its job's id."""
    return Published.model_validate(lookups.published(caller.tenant, named))


@router.get("/contents/{sha256}")
def file_of_content(
    caller: Caller,
    sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$")],
    filename: Annotated[str, Query(min_length=1, max_length=255)],
) -> WholeId:
    """Find the file of a content and a name, which need not be sent again."""
    return WholeId(id=lookups.file_of_content(caller.tenant, sha256, filename))


@router.get("/waiting")
def waiting(caller: Caller, limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> Listing:
    """List the tenant's waiting jobs, the next to start first, with place, expected start and reason."""
    found = list_queue(limit=limit, scope=Scope.of(caller.tenant))
    return Listing(data=jsonable_encoder([entry.plain() for entry in found]))


@router.get("/jobs/{job_id}/why")
def why(caller: Caller, job_id: JobId) -> dict[str, Any]:
    """Explain why a job waits: the steps in which its turn is decided."""
    find(caller.tenant, job_id)
    return jsonable_encoder(explain(job_id, scope=Scope.of(caller.tenant)).plain())
