"""Serves ``/v1/celora/checks``: checks the data of a job before it is submitted, as ``celora check`` does."""

from typing import Annotated, Any, Literal, Self

import anyio.to_thread
from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ValidationError

from ...errors import RequestError
from ...services.native import checks
from ...services.openai.job_form import JobForm
from ...settings.settings import get_settings
from ..answers import ERRORS, refusal
from ..body import body_of, read_json
from ..pages import Deleted, Listed
from ..principal import Caller, Writer

router = APIRouter(prefix="/v1/celora/checks", tags=["celora"], responses=ERRORS)

CheckId = Annotated[str, Path(max_length=64)]


class Fault(BaseModel):
    """A fault: its stable word, the fault itself, and the next step."""

    code: str
    message: str
    hint: str


class CheckObject(Listed):
    """A check of data: ``error`` is the fault of the data, ``failure`` that for which there is no result."""

    object: Literal["celora.check"] = "celora.check"
    status: checks.Status
    created_at: int
    expires_at: int
    receipt: dict[str, Any] | None
    error: Fault | None
    failure: Fault | None

    @classmethod
    def of(cls, view: checks.CheckView) -> Self:
        """Make the object of a check."""
        times = {"created_at": int(view.created_at), "expires_at": int(view.expires_at)}
        return cls.model_validate({**vars(view), **times})


@router.post("", openapi_extra=body_of(JobForm))
async def create(request: Request, caller: Writer) -> CheckObject:
    """Ask for the check of a job's data; the body is that of the job, and no job is made."""
    fields = await read_json(request)
    return CheckObject.of(
        await anyio.to_thread.run_sync(checks.create, fields, caller.tenant, get_settings(), _refusal)
    )


def _refusal(error: ValidationError) -> RequestError:
    return refusal(error.errors(include_url=False))


@router.get("/{check_id}")
def retrieve(caller: Caller, check_id: CheckId) -> CheckObject:
    """Return a check, with the receipt and the fault of the data once it has ended."""
    return CheckObject.of(checks.find(caller.tenant, check_id))


@router.delete("/{check_id}")
def delete(caller: Writer, check_id: CheckId) -> Deleted:
    """Delete a check with its result; its files stay."""
    checks.delete(caller.tenant, check_id)
    return Deleted(id=check_id, object="celora.check")
