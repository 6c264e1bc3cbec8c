"""Serves ``/v1/uploads``: a file in parts, which are joined when the upload is completed."""

from typing import Annotated, Literal, Self

import anyio.to_thread
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from ...services.openai import uploads
from ...settings.settings import get_settings
from ...storage.incoming import IncomingFile
from ..answers import ERRORS
from ..body import body_of, read_model
from ..multipart import MultipartForm
from ..pages import Listed
from ..principal import Writer
from ..received import check_file_length, receive_file
from .files import FileObject, check_purpose

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], responses=ERRORS)

MOST_PARTS = 10_000
PART_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


class ExpiresAfter(BaseModel):
    """The life of the file that an upload becomes."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000, strict=True)]


class UploadForm(BaseModel):
    """The request that begins an upload; ``mime_type`` is ignored."""

    model_config = ConfigDict(extra="forbid")

    bytes: Annotated[int, Field(ge=1, le=2**53, strict=True)]
    filename: Annotated[str, Field(min_length=1, max_length=1000)]
    purpose: str
    mime_type: Annotated[str, Field(max_length=255)]
    expires_after: ExpiresAfter | None = None


class CompleteForm(BaseModel):
    """The request that completes an upload."""

    model_config = ConfigDict(extra="forbid")

    part_ids: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=MOST_PARTS)]
    md5: Annotated[str, Field(pattern="^[0-9a-fA-F]{32}$")] | None = None


class UploadObject(Listed):
    """An upload as clients read it."""

    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None

    @classmethod
    def of(cls, upload: uploads.UploadView) -> Self:
        """Make the object of an upload."""
        times = {"created_at": int(upload.created_at), "expires_at": int(upload.expires_at)}
        file = FileObject.of(upload.file) if upload.file else None
        return cls.model_validate({**vars(upload), **times, "bytes": upload.size_bytes, "file": file})


class PartObject(Listed):
    """A part of an upload as clients read it."""

    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


@router.post("", openapi_extra=body_of(UploadForm))
async def create(request: Request, caller: Writer) -> UploadObject:
    """Begin an upload; it must be complete within an hour."""
    form = await read_model(request, UploadForm)
    check_purpose(form.purpose)
    life_s = form.expires_after.seconds if form.expires_after else None

    def begin() -> uploads.UploadView:
        return uploads.create(
            caller.tenant,
            get_settings(),
            filename=form.filename,
            purpose=form.purpose,
            size_bytes=form.bytes,
            expires_s=life_s,
        )

    return UploadObject.of(await anyio.to_thread.run_sync(begin))


@router.post("/{upload_id}/parts", openapi_extra=PART_BODY)
async def add_part(request: Request, caller: Writer, upload_id: str) -> PartObject:
    """Receive a part; parts may come side by side, and in any order."""
    settings = get_settings()
    most_bytes = min(uploads.PART_BYTES, settings.upload_bytes)
    check_file_length(request, most_bytes)
    await anyio.to_thread.run_sync(uploads.require_pending, caller.tenant, upload_id)

    def keep(incoming: IncomingFile, _form: MultipartForm) -> uploads.PartView:
        return uploads.add_part(caller.tenant, upload_id, incoming, settings)

    made = await receive_file(request, "data", most_bytes, keep)
    return PartObject(id=made.id, created_at=int(made.created_at), upload_id=made.upload_id)


@router.post("/{upload_id}/complete", openapi_extra=body_of(CompleteForm))
async def complete(request: Request, caller: Writer, upload_id: str) -> UploadObject:
    """Join the parts in the order of their ids into a file; a worker checks it afterwards."""
    form = await read_model(request, CompleteForm)

    def join() -> uploads.UploadView:
        return uploads.complete(caller.tenant, upload_id, form.part_ids, get_settings(), md5=form.md5)

    return UploadObject.of(await anyio.to_thread.run_sync(join))


@router.post("/{upload_id}/cancel")
def cancel(caller: Writer, upload_id: str) -> UploadObject:
    """Cancel an upload; no part can be added any more."""
    return UploadObject.of(uploads.cancel(caller.tenant, upload_id))
