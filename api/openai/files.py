"""Serves ``/v1/files``: upload, list, retrieve, content, delete."""

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import RequestError
from ...models.openai.pages import Order
from ...services.openai import files
from ...settings.settings import get_settings
from ...storage.incoming import IncomingFile
from ...tuning.files.suffixes import suffix_of
from ..answers import ERRORS, refusal
from ..multipart import MultipartForm
from ..pages import After, Deleted, Listed, Page
from ..principal import Caller, Writer
from ..received import receive_file

router = APIRouter(prefix="/v1/files", tags=["files"], responses=ERRORS)

MOST_LISTED = 10_000
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": [files.PURPOSE]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                    },
                }
            }
        },
    }
}


class FileObject(Listed):
    """A file as clients read it."""

    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"]
    status_details: str | None

    @classmethod
    def of(cls, file: files.FileView) -> Self:
        """Make the object of a file."""
        expires_at = int(file.expires_at) if file.expires_at else None
        return cls.model_validate(
            {**vars(file), "bytes": file.size_bytes, "created_at": int(file.created_at), "expires_at": expires_at}
        )


class Fields(BaseModel):
    """The fields of an upload beside its file."""

    model_config = ConfigDict(extra="forbid")

    purpose: str
    anchor: Literal["created_at"] | None = Field(None, alias="expires_after[anchor]")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        None, description="the SHA-256 that the content must have; celora's own"
    )
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)] | None = Field(None, alias="expires_after[seconds]")


@router.post("", openapi_extra=BODY)
async def create(request: Request, caller: Writer) -> FileObject:
    """Receive a file of training rows; a worker checks it afterwards."""
    settings = get_settings()

    def keep(incoming: IncomingFile, form: MultipartForm) -> files.FileView:
        try:
            fields = Fields.model_validate(form.fields)
        except ValidationError as error:
            raise refusal(error.errors(include_url=False)) from None
        check_purpose(fields.purpose)
        check_life(fields)
        if fields.sha256 not in (None, incoming.sha256):
            raise RequestError(
                "sha256: the content that arrived has another hash; send the file again.",
                reason="content_mismatch",
                param="sha256",
            )
        name = form.filename or ""
        stored = incoming.commit(suffix_of(name) or ".jsonl")
        return files.create(caller.tenant, stored, settings, filename=name, expires_s=fields.seconds)

    return FileObject.of(await receive_file(request, "file", settings.upload_bytes, keep))


def check_life(fields: Fields) -> None:
    """Refuse half of a file's life: the seconds without their anchor, or the anchor alone.

    Raises:
        RequestError: One of the two is missing.
    """
    if (fields.anchor is None) != (fields.seconds is None):
        missing = f"expires_after[{'anchor' if fields.anchor is None else 'seconds'}]"
        raise RequestError(f"{missing} is missing.", reason="missing_required_parameter", param=missing)


def check_purpose(purpose: str) -> None:
    """Refuse a file that is not for fine-tuning.

    Raises:
        RequestError: The purpose is another one.
    """
    if purpose != files.PURPOSE:
        raise RequestError(f"purpose: use {files.PURPOSE}; this service keeps no other files.", param="purpose")


@router.get("")
def list_files(
    caller: Caller,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
    order: Order = "desc",
    purpose: Annotated[str | None, Query(max_length=64)] = None,
) -> Page[FileObject]:
    """List the files of the caller's tenant, the newest first."""
    found, more = files.page(caller.tenant, after=after, limit=limit, order=order, purpose=purpose)
    return Page[FileObject].of([FileObject.of(file) for file in found], has_more=more)


@router.get("/{file_id}")
def retrieve(caller: Caller, file_id: str) -> FileObject:
    """Return a file's facts."""
    return FileObject.of(files.find(caller.tenant, file_id))


@router.get("/{file_id}/content", response_class=StreamingResponse)
def content(caller: Caller, file_id: str) -> StreamingResponse:
    """Send a file's content."""
    file, parts = files.content(caller.tenant, file_id, get_settings())
    kind = "text/csv" if file.purpose == files.RESULTS else "application/octet-stream"
    headers = {"content-length": str(file.size_bytes), "x-content-type-options": "nosniff"}
    return StreamingResponse(parts, media_type=kind, headers=headers)


@router.delete("/{file_id}")
def delete(caller: Writer, file_id: str) -> Deleted:
    """Delete a file; a job that is under way keeps its content."""
    files.delete(caller.tenant, file_id)
    return Deleted(id=file_id, object="file")
