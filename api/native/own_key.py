"""Serves ``/v1/celora/key``: the key that a request brings may rotate itself."""

import anyio.to_thread
from fastapi import APIRouter, Request

from ...errors import RequestError
from ...services.tenants import keys
from ..answers import ERRORS
from ..body import body_of, read_model
from ..principal import Caller
from .admin import NewKeyObject, RotateForm

router = APIRouter(prefix="/v1/celora/key", tags=["celora"], responses=ERRORS)


@router.post("/rotate", openapi_extra=body_of(RotateForm, required=False))
async def rotate(request: Request, caller: Caller) -> NewKeyObject:
    """Make a key with the rights of the key that asks, and end that one, at once or after some seconds."""
    form = await read_model(request, RotateForm)
    if not caller.key_id:
        raise RequestError(
            "the request brought no key, so there is none to rotate.", reason="key_not_found", status=404
        )
    made = await anyio.to_thread.run_sync(
        lambda: keys.rotate_key(caller.key_id, tenant=caller.tenant, keep_s=form.keep_s)
    )
    return NewKeyObject.of(made)
