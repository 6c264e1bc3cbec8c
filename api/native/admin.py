"""Serves ``/v1/celora/admin`` for operators: tenants, keys, the audit, workers. Each route needs the scope admin."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Path, Query, Request
from fastapi.encoders import jsonable_encoder
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from ...models import queries
from ...models.database import get_database
from ...models.scope.scope import Scope
from ...models.tenants.limits import LEAST_PRIORITY, MOST_PRIORITY, RANGES, Limits
from ...services import workers
from ...services.tenants import books, keys, limits
from ...settings.settings import get_settings
from ..answers import ERRORS
from ..body import body_of, read_model
from ..principal import Admin
from .tenant import Listing

router = APIRouter(prefix="/v1/celora/admin", tags=["admin"], responses=ERRORS)

Tenant = Annotated[str, Path(max_length=64)]
TenantQuery = Annotated[str | None, Query(min_length=1, max_length=64)]
Amount = Annotated[float, Field(ge=0, le=1e15)]


class LimitsForm(BaseModel):
    """The request that sets limits of a tenant; null lifts one, and one that is left out stays."""

    model_config = ConfigDict(extra="forbid", strict=True)

    max_jobs: Annotated[int, Field(ge=0, le=10**9)] | None = None
    max_gpus: Annotated[int, Field(ge=0, le=10**9)] | None = None
    gpu_minutes: Amount | None = None
    budget: Amount | None = None
    storage_bytes: Annotated[int, Field(ge=0, le=2**62)] | None = None
    max_priority: Annotated[int, Field(ge=LEAST_PRIORITY, le=MOST_PRIORITY)] = MOST_PRIORITY
    weight: Annotated[float, Field(ge=RANGES["weight"][0], le=RANGES["weight"][1])] = 1.0
    over: Literal["wait", "refuse"] = "wait"
    classes: Annotated[str, Field(max_length=64, description="classes of jobs, commas between")] = Limits().classes


class KeyForm(BaseModel):
    """The request that makes a key."""

    model_config = ConfigDict(extra="forbid")

    tenant: Annotated[str, Field(min_length=1, max_length=64)]
    name: Annotated[str, Field(max_length=200)] = ""
    scopes: Annotated[list[Literal["read", "submit", "admin"]], Field(min_length=1, max_length=3)] = ["read", "submit"]
    expires_at: AwareDatetime | None = None


class RotateForm(BaseModel):
    """The request that rotates a key; the old one stays valid for some seconds."""

    model_config = ConfigDict(extra="forbid", strict=True)

    keep_s: Annotated[float, Field(ge=0, le=30 * 86400)] = 0.0


class NewKeyObject(BaseModel):
    """A key that was just made: the only answer that has it."""

    id: str
    key: str
    tenant: str
    scopes: list[str]
    expires_at: datetime | None

    @classmethod
    def of(cls, made: keys.NewKey) -> "NewKeyObject":
        """Make the object of a new key."""
        return cls(id=made.id, key=made.key, tenant=made.tenant, scopes=made.scopes, expires_at=made.expires_at)


@router.get("/tenants")
def list_tenants(_caller: Admin) -> Listing:
    """List the tenants with their limits and what is used of them."""
    return Listing(data=jsonable_encoder([limits.as_data(one) for one in limits.list_tenants()]))


@router.get("/tenants/{tenant}")
def show_tenant(_caller: Admin, tenant: Tenant) -> dict[str, Any]:
    """Return a tenant with its limits and what is used of them."""
    return jsonable_encoder(limits.as_data(limits.show_tenant(tenant)))


@router.post("/tenants/{tenant}", openapi_extra=body_of(LimitsForm))
async def set_tenant(request: Request, _caller: Admin, tenant: Tenant) -> dict[str, Any]:
    """Set limits of a tenant, which is made where it is missing."""
    form = await read_model(request, LimitsForm)
    changes = form.model_dump(exclude_unset=True)
    made = await anyio.to_thread.run_sync(limits.set_tenant, tenant, changes)
    return jsonable_encoder(limits.as_data(made))


@router.get("/keys")
def list_keys(_caller: Admin, tenant: TenantQuery = None) -> Listing:
    """List keys, never the keys themselves."""
    return Listing(data=jsonable_encoder([asdict(one) for one in keys.list_keys(tenant)]))


@router.post("/keys", openapi_extra=body_of(KeyForm))
async def create_key(request: Request, _caller: Admin) -> NewKeyObject:
    """Make a key for a tenant, which is made where it is missing."""
    form = await read_model(request, KeyForm)

    def make() -> keys.NewKey:
        return keys.create_key(form.tenant, scopes=form.scopes, name=form.name, expires_at=form.expires_at)

    return NewKeyObject.of(await anyio.to_thread.run_sync(make))


@router.post("/keys/{key_id}/rotate", openapi_extra=body_of(RotateForm, required=False))
async def rotate_key(request: Request, _caller: Admin, key_id: str) -> NewKeyObject:
    """Make a key with the rights of another one, and end the other one."""
    form = await read_model(request, RotateForm)

    def rotate() -> keys.NewKey:
        return keys.rotate_key(key_id, keep_s=form.keep_s)

    return NewKeyObject.of(await anyio.to_thread.run_sync(rotate))


@router.delete("/keys/{key_id}")
def revoke_key(_caller: Admin, key_id: str) -> dict[str, Any]:
    """Revoke a key at once."""
    return jsonable_encoder(asdict(keys.revoke_key(key_id)))


@router.get("/audit")
def audit(
    _caller: Admin,
    tenant: TenantQuery = None,
    target: Annotated[str | None, Query(max_length=200)] = None,
    action: Annotated[str | None, Query(max_length=64)] = None,
    before: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> Listing:
    """List the changes of people, the newest first."""
    found = books.read_audit(tenant=tenant, target=target, action=action, before_id=before, limit=limit)
    return Listing(data=jsonable_encoder([asdict(line) for line in found]))


@router.get("/workers")
def list_workers(_caller: Admin) -> Listing:
    """List the workers: type, device, what each runs, and why one takes no work."""
    with get_database().session(Scope.everything) as session:
        return Listing(data=jsonable_encoder(queries.workers(session, get_settings().foreign_memory_bytes)))


@router.post("/workers/{worker}/{verb}")
def change_worker(
    _caller: Admin, worker: Annotated[str, Path(max_length=255)], verb: Literal["drain", "cordon", "uncordon"]
) -> dict[str, str]:
    """Drain a worker (it gives its job back and leaves), cordon it (it takes no more work), or end a cordon."""
    return {"worker": worker, "answer": getattr(workers, verb)(worker)}
