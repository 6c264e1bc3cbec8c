"""Serves ``/v1/webhook_endpoints`` and ``/v1/webhook_event_types``, which the ``webhooks`` of OpenAI's client calls."""

from typing import Annotated, Literal, Self

import anyio.to_thread
from fastapi import APIRouter, Path, Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ...services.notifications import endpoints
from ...services.notifications.messages import EVENT_TYPES, NOTICES
from ...settings.settings import get_settings
from ..answers import ERRORS
from ..body import body_of, read_model
from ..pages import After, Deleted, Listed, Page
from ..principal import Caller, Writer

router = APIRouter(prefix="/v1", tags=["webhooks"], responses=ERRORS)

TYPES = list(EVENT_TYPES.values())
EndpointId = Annotated[str, Path(max_length=128)]


def _known(event_type: str) -> str:
    if event_type not in NOTICES:
        raise ValueError(f"{event_type[:64]} is no event type here; there are {', '.join(TYPES)}")
    return event_type


def _unique(event_types: list[str]) -> list[str]:
    if len(set(event_types)) < len(event_types):
        raise ValueError("an event type stands twice")
    return event_types


EventType = Annotated[str, Field(strict=True), AfterValidator(_known)]
EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=100), AfterValidator(_unique)]
Name = Annotated[str, Field(min_length=1, max_length=200, strict=True)]
Url = Annotated[str, Field(min_length=1, max_length=4000, strict=True)]


class CreateForm(BaseModel):
    """The request that makes an endpoint."""

    model_config = ConfigDict(extra="forbid")

    event_types: EventTypes
    name: Name
    url: Url


class UpdateForm(BaseModel):
    """The request that changes an endpoint; a field that is absent stays as it is."""

    model_config = ConfigDict(extra="forbid")

    event_types: EventTypes | None = None
    name: Name | None = None
    url: Url | None = None


class RotateForm(BaseModel):
    """The request that makes a new signing secret."""

    model_config = ConfigDict(extra="forbid")

    keep_old_secret_active_for_24_hours: Annotated[bool, Field(strict=True)] = False


class TestForm(BaseModel):
    """The request that delivers a sample."""

    model_config = ConfigDict(extra="forbid")

    event_type: EventType


class EndpointObject(Listed):
    """An endpoint as clients read it; ``celora`` says whether deliveries fail."""

    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    updated_at: int
    event_types: list[str]
    name: str
    url: str
    signing_secret_hint: str
    celora: "EndpointState"

    @classmethod
    def of(cls, view: endpoints.EndpointView) -> Self:
        """Make the object of an endpoint."""
        return cls.model_validate(_fields(view))


class EndpointState(BaseModel):
    """The deliveries to an endpoint: since when they fail, and when and why it was switched off."""

    failing_since: int | None
    switched_off_at: int | None
    switched_off_reason: str | None

    @classmethod
    def of(cls, view: endpoints.EndpointView) -> Self:
        """Read the state of an endpoint."""
        failing = int(view.failing_since) if view.failing_since is not None else None
        off = int(view.off_at) if view.off_at is not None else None
        return cls(failing_since=failing, switched_off_at=off, switched_off_reason=view.off_reason)


class EndpointWithSecret(EndpointObject):
    """An endpoint with its signing secret, as it is shown once."""

    signing_secret: str = Field(repr=False)

    @classmethod
    def with_secret(cls, view: endpoints.EndpointView, secret: str) -> Self:
        """Make the object of an endpoint with its secret."""
        return cls.model_validate({**_fields(view), "signing_secret": secret})


class TestResult(BaseModel):
    """The answer of an endpoint to a sample."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    event_type: str
    status_code: int
    success: Literal[True] = True
    webhook_endpoint_id: str


class TypeList(BaseModel):
    """The types of events."""

    object: Literal["list"] = "list"
    data: list[str]


def _fields(view: endpoints.EndpointView) -> dict[str, object]:
    return {
        "id": view.id,
        "created_at": int(view.created_at),
        "updated_at": int(view.updated_at),
        "event_types": [EVENT_TYPES[notice] for notice in view.notices],
        "name": view.name,
        "url": view.url,
        "signing_secret_hint": f"whsec_…{view.hint}",
        "celora": EndpointState.of(view),
    }


@router.get("/webhook_event_types")
def list_event_types(caller: Caller) -> TypeList:  # noqa: ARG001  (the key is required)
    """List the types of events that an endpoint may get."""
    return TypeList(data=TYPES)


@router.post("/webhook_endpoints", openapi_extra=body_of(CreateForm))
async def create(request: Request, caller: Writer) -> EndpointWithSecret:
    """Make an endpoint; the answer holds its signing secret, which is not shown again."""
    form = await read_model(request, CreateForm)
    notices = [NOTICES[event_type] for event_type in form.event_types]

    def make() -> tuple[endpoints.EndpointView, str]:
        return endpoints.create(caller.tenant, get_settings(), name=form.name, url=form.url, notices=notices)

    view, secret = await anyio.to_thread.run_sync(make)
    return EndpointWithSecret.with_secret(view, secret)


@router.get("/webhook_endpoints")
def list_endpoints(
    caller: Caller, after: After = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> Page[EndpointObject]:
    """List the endpoints, the newest first."""
    found, more = endpoints.page(caller.tenant, after=after, limit=limit)
    return Page[EndpointObject].of([EndpointObject.of(view) for view in found], has_more=more)


@router.get("/webhook_endpoints/{endpoint_id}")
def retrieve(caller: Caller, endpoint_id: EndpointId) -> EndpointObject:
    """Return an endpoint."""
    return EndpointObject.of(endpoints.find(caller.tenant, endpoint_id))


@router.post("/webhook_endpoints/{endpoint_id}", openapi_extra=body_of(UpdateForm))
async def update(request: Request, caller: Writer, endpoint_id: EndpointId) -> EndpointObject:
    """Change an endpoint; one that was switched off is switched on again."""
    form = await read_model(request, UpdateForm)
    notices = [NOTICES[event_type] for event_type in form.event_types] if form.event_types is not None else None

    def change() -> endpoints.EndpointView:
        given = {"name": form.name, "url": form.url}
        return endpoints.update(caller.tenant, endpoint_id, get_settings(), **given, notices=notices)

    return EndpointObject.of(await anyio.to_thread.run_sync(change))


@router.delete("/webhook_endpoints/{endpoint_id}")
def delete(caller: Writer, endpoint_id: EndpointId) -> Deleted:
    """Delete an endpoint; nothing more is delivered to it."""
    return Deleted(id=endpoints.delete(caller.tenant, endpoint_id), object="webhook_endpoint.deleted")


@router.post("/webhook_endpoints/{endpoint_id}/rotate_secret", openapi_extra=body_of(RotateForm, required=False))
async def rotate_secret(request: Request, caller: Writer, endpoint_id: EndpointId) -> EndpointWithSecret:
    """Make a new signing secret; the answer holds it, and it is not shown again."""
    form = await read_model(request, RotateForm)
    keep = form.keep_old_secret_active_for_24_hours

    def change() -> tuple[endpoints.EndpointView, str]:
        return endpoints.rotate(caller.tenant, endpoint_id, get_settings(), keep_old=keep)

    view, secret = await anyio.to_thread.run_sync(change)
    return EndpointWithSecret.with_secret(view, secret)


@router.post("/webhook_endpoints/{endpoint_id}/test", openapi_extra=body_of(TestForm))
async def test(request: Request, caller: Writer, endpoint_id: EndpointId) -> TestResult:
    """Deliver a sample while the caller waits, and return the status of the endpoint's answer."""
    form = await read_model(request, TestForm)

    def send() -> int:
        return endpoints.test(caller.tenant, endpoint_id, NOTICES[form.event_type], get_settings())

    status = await anyio.to_thread.run_sync(send)
    return TestResult(event_type=form.event_type, status_code=status, webhook_endpoint_id=endpoint_id)
