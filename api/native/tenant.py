"""Serves ``/v1/celora`` for a tenant: queue, usage, limits, datasets, champions, schedules, comparisons."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Path, Query, Request
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel, ConfigDict, Field

from ...models import champions as champion_record
from ...models import datasets as dataset_record
from ...models.database import get_database
from ...models.scope.scope import Scope
from ...services import champions, schedules
from ...services.native import comparing, job_reads
from ...services.openai.jobs import find
from ...services.tenants import books, limits, words
from ...settings.settings import get_settings
from ..answers import ERRORS
from ..body import body_of, read_model
from ..principal import Caller, Writer

router = APIRouter(prefix="/v1/celora", tags=["celora"], responses=ERRORS)

Name = Annotated[str, Path(max_length=64)]
HIDDEN = frozenset({"uri", "adapter", "tenant"})
"""Facts about places that only the operator reads."""


class Listing(BaseModel):
    """A whole list."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]


class PromoteForm(BaseModel):
    """The request that gives a champion's name to a job's adapter."""

    model_config = ConfigDict(extra="forbid")

    job: Annotated[str, Field(min_length=1, max_length=128)]
    reason: Annotated[str, Field(max_length=500)] = ""


class RollbackForm(BaseModel):
    """The request that gives a champion's name back to the adapter before."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(max_length=500)] = ""


@router.get("/queue")
def queue(caller: Caller, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Listing:
    """List the tenant's unfinished jobs, the oldest first, each with the reason why it waits."""
    return _listing(job_reads.queue(caller.tenant, limit))


@router.get("/usage")
def usage(
    caller: Caller,
    month: Annotated[str | None, Query(max_length=16)] = None,
    by: Annotated[list[Literal["user", "model"]] | None, Query(max_length=2)] = None,
) -> Listing:
    """List the tenant's use by month, split by user or base model on request."""
    with get_database().session(Scope.of(caller.tenant)) as session:
        known = limits.is_known(session, caller.tenant)
    found = books.read_usage(tenant=caller.tenant, month=month, by=by or []) if known else []
    return _listing(
        [
            {
                "month": one.month,
                "user": one.user,
                "model": one.model,
                "jobs": one.jobs,
                "gpu_minutes": one.spent.minutes,
                "cost": one.spent.cost,
                "held_gpu_minutes": one.held.minutes,
                "held_cost": one.held.cost,
            }
            for one in found
        ]
    )


@router.get("/datasets")
def datasets(caller: Caller) -> Listing:
    """List every version of the tenant's datasets."""
    with get_database().session(Scope.of(caller.tenant)) as session:
        return _listing(dataset_record.listed(session, tenant=caller.tenant))


@router.get("/champions")
def list_champions(caller: Caller) -> Listing:
    """List the tenant's champions."""
    with get_database().session(Scope.of(caller.tenant)) as session:
        return _listing(champion_record.listed(session, tenant=caller.tenant))


@router.get("/champions/{name}")
def champion(caller: Caller, name: Name) -> dict[str, Any]:
    """Return a champion: its job, version, base and measurements."""
    return _shown(champions.current(name, tenant=caller.tenant))


@router.post("/champions/{name}/promote", openapi_extra=body_of(PromoteForm))
async def promote(request: Request, caller: Writer, name: Name) -> dict[str, Any]:
    """Give a champion's name to the adapter of a job."""
    form = await read_model(request, PromoteForm)

    def change() -> dict[str, Any]:
        find(caller.tenant, form.job)
        return _shown(
            champions.promote(name, form.job, tenant=caller.tenant, reason=form.reason, by=caller.name or "api")
        )

    return await anyio.to_thread.run_sync(change)


@router.post("/champions/{name}/rollback", openapi_extra=body_of(RollbackForm, required=False))
async def rollback(request: Request, caller: Writer, name: Name) -> dict[str, Any]:
    """Give a champion's name back to the adapter that had it before."""
    form = await read_model(request, RollbackForm)

    def change() -> dict[str, Any]:
        return _shown(champions.rollback(name, tenant=caller.tenant, reason=form.reason, by=caller.name or "api"))

    return await anyio.to_thread.run_sync(change)


@router.get("/compare")
def compare(
    caller: Caller, one: Annotated[str, Query(max_length=128)], other: Annotated[str, Query(max_length=128)]
) -> dict[str, Any]:
    """Compare two adapters by their stored evaluations: jobs, champions, or ``base``."""
    return jsonable_encoder(words.data(comparing.compare(caller.tenant, one, other, get_settings())))


@router.get("/schedules")
def list_schedules(caller: Caller) -> Listing:
    """List the tenant's schedules."""
    with get_database().session(Scope.of(caller.tenant)) as session:
        known = limits.is_known(session, caller.tenant)
    return _listing(schedules.listed(caller.tenant) if known else [])


@router.get("/schedules/{name}")
def schedule(caller: Caller, name: Name) -> dict[str, Any]:
    """Return a schedule with its next times and its last runs."""
    return _shown(schedules.show(name, tenant=caller.tenant))


@router.post("/schedules/{name}/pause")
def pause_schedule(caller: Writer, name: Name) -> dict[str, Any]:
    """Pause a schedule; a job that it submitted goes on."""
    schedules.pause(name, tenant=caller.tenant)
    return schedule(caller, name)


@router.post("/schedules/{name}/resume")
def resume_schedule(caller: Writer, name: Name) -> dict[str, Any]:
    """Resume a paused schedule."""
    schedules.resume(name, tenant=caller.tenant)
    return schedule(caller, name)


@router.post("/schedules/{name}/run")
def run_schedule(caller: Writer, name: Name) -> dict[str, Any]:
    """Run a schedule now, beside its times."""
    return _shown(schedules.run_now(name, tenant=caller.tenant))


@router.get("/tenant")
def own(caller: Caller) -> dict[str, Any]:
    """Return the tenant's limits and what it has used of them."""
    return jsonable_encoder(limits.as_data(limits.show_tenant(caller.tenant)))


@router.get("/audit")
def audit(
    caller: Caller,
    target: Annotated[str | None, Query(max_length=200)] = None,
    action: Annotated[str | None, Query(max_length=64)] = None,
    before: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> Listing:
    """List the changes of the tenant's objects, the newest first; operators have no name there."""
    found = books.read_audit(
        tenant=caller.tenant, target=target, action=action, before_id=before, limit=limit, as_tenant=True
    )
    return Listing(data=jsonable_encoder([asdict(line) for line in found]))


def _listing(found: list[dict[str, Any]]) -> Listing:
    return Listing(data=[_shown(one) for one in found])


def _shown(facts: dict[str, Any]) -> dict[str, Any]:
    return jsonable_encoder(words.data({name: value for name, value in facts.items() if name not in HIDDEN}))
