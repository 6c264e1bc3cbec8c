"""Serves ``/v1/celora/deliveries``: the log of the deliveries to webhooks and channels, and their repetition."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel

from ...services.notifications import receivers
from ..answers import ERRORS
from ..principal import Caller, Writer

router = APIRouter(prefix="/v1/celora/deliveries", tags=["celora"], responses=ERRORS)

HIDDEN = frozenset({"tenant"})


class Deliveries(BaseModel):
    """Deliveries, the newest first."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]


@router.get("")
def list_deliveries(
    caller: Caller,
    receiver: Annotated[str | None, Query(max_length=128)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> Deliveries:
    """List the tenant's deliveries with their tries, the newest first; of one receiver on request."""
    found = receivers.list_deliveries(caller.tenant, words=receiver, limit=limit)
    return Deliveries(data=[_shown(view) for view in found])


@router.post("/{delivery_id}/redeliver")
def redeliver(caller: Writer, delivery_id: Annotated[int, Path(ge=1, le=2**31 - 1)]) -> dict[str, Any]:
    """Make a delivery due at once, whether it has ended or not."""
    return _shown(receivers.redeliver(delivery_id, tenant=caller.tenant))


def _shown(view: receivers.DeliveryView) -> dict[str, Any]:
    return jsonable_encoder({name: value for name, value in asdict(view).items() if name not in HIDDEN})
