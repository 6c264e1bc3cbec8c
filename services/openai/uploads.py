"""Keeps uploads: files that come in parts, each stored as it comes, and joined into one file at the end.

The id of the file follows from the id of the upload. So a completion that is repeated after a lost answer, or after the
process died, makes no second file.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import RequestError, StorageError
from ...models.database import Database, get_database
from ...models.openai import uploads
from ...models.scope.scope import Scope
from ...models.tables import Upload, UploadPart
from ...settings.failpoints import hit
from ...settings.settings import Settings
from ...storage.artifacts import Artifacts
from ...storage.incoming import IncomingFile, Stored
from ...tuning.files.suffixes import suffix_of
from ..job_checks import check_tenant
from ..tenants.storage import check_storage
from . import files
from .files import FileView

logger = logging.getLogger(__name__)

PART_BYTES = 64 * 2**20
"""Size of the largest part, as at OpenAI."""
JOINING_S = 900.0
"""Seconds for which a request keeps its claim on the joining."""
FOLDER = "uploads"


@dataclass(frozen=True, kw_only=True)
class UploadView:
    """An upload as its owner sees it; ``file`` is the file that it has become."""

    id: str
    filename: str
    purpose: str
    size_bytes: int
    status: str
    created_at: float
    expires_at: float
    file: FileView | None


@dataclass(frozen=True, kw_only=True)
class PartView:
    """A part of an upload."""

    id: str
    upload_id: str
    created_at: float


def create(
    tenant: str, settings: Settings, *, filename: str, purpose: str, size_bytes: int, expires_s: int | None
) -> UploadView:
    """Begin an upload.

    Raises:
        RequestError: The announced size is above the installation's limit.
        TenantLimitError: The tenant has no room for it.
        NotFoundError: There is no such tenant, and the installation makes none by its first use.
    """
    if size_bytes > settings.upload_bytes:
        raise RequestError(f"bytes: the largest file has {settings.upload_bytes} bytes.", param="bytes")
    facts = {"filename": files.shown_name(filename), "purpose": purpose, "size_bytes": size_bytes}
    with get_database().transaction(Scope.of(tenant)) as session:
        check_tenant(session, tenant, settings)
        check_storage(session, tenant, size_bytes)
        row = uploads.add_upload(
            session, upload_id=files.new_id("upload"), tenant=tenant, facts={**facts, "file_expires_s": expires_s}
        )
        return _view(row, None)


def require_pending(tenant: str, upload_id: str) -> None:
    """Check that an upload takes parts, before the body of one is read.

    Raises:
        RequestError: There is none (404), or it is completed, cancelled or expired.
    """
    with get_database().transaction(Scope.of(tenant)) as session:
        uploads.find_pending(session, tenant, upload_id)


def add_part(tenant: str, upload_id: str, incoming: IncomingFile, settings: Settings) -> PartView:
    """Keep a part that has arrived.

    Raises:
        RequestError: There is no such upload (404), it takes no parts any more, or the parts are larger than it.
    """
    part_id = files.new_id("part").replace("-", "_", 1)
    uri = Artifacts(settings.artifacts).uri(FOLDER, tenant, upload_id, part_id)
    part = {"id": part_id, "size_bytes": incoming.size_bytes, "uri": uri}
    with get_database().transaction(Scope.of(tenant)) as session:
        row = uploads.add_part(session, tenant, upload_id, part)
        incoming.commit_at(uri)
        hit("upload.part_stored")
        return _part(row)


def complete(
    tenant: str, upload_id: str, part_ids: Sequence[str], settings: Settings, *, md5: str | None = None
) -> UploadView:
    """Join the parts in the given order into a file, and ask for its check.

    Args:
        tenant: The owner.
        upload_id: The upload; a completed one is returned as it is.
        part_ids: Its parts, in order.
        settings: The installation's.
        md5: The MD5 of the whole, in hexadecimal digits, where the client knows it.

    Raises:
        RequestError: There is no such upload (404), it has ended, a part is not its own, the size or the MD5 is wrong.
    """
    with get_database().transaction(Scope.of(tenant)) as session:
        row = uploads.find_upload(session, tenant, upload_id)
        if row.status == uploads.COMPLETED and row.file_id:
            return _view(row, files.find(tenant, row.file_id))
        uploads.find_pending(session, tenant, upload_id)
        uris = [part.uri for part in uploads.parts_of(session, tenant, upload_id, part_ids)]
        filename, purpose, life_s = row.filename, row.purpose, row.file_expires_s
        uploads.claim_joining(session, tenant, upload_id, JOINING_S)
    try:
        stored = _join(settings, uris, filename, md5)
        hit("upload.joined")
        made = files.create(
            tenant,
            stored,
            settings,
            filename=filename,
            purpose=purpose,
            expires_s=life_s,
            file_id=file_id_of(upload_id),
        )
    except BaseException:
        _end(tenant, upload_id, uploads.PENDING)
        raise
    return _end(tenant, upload_id, uploads.COMPLETED, made)


def cancel(tenant: str, upload_id: str) -> UploadView:
    """Cancel a pending upload; its parts are removed by the next sweep.

    Raises:
        RequestError: There is no such upload (404), or it has ended.
    """
    with get_database().transaction(Scope.of(tenant)) as session:
        row = uploads.find_upload(session, tenant, upload_id)
        if row.status != uploads.CANCELLED:
            uploads.find_pending(session, tenant, upload_id)
            row = uploads.end_upload(session, tenant, upload_id, uploads.CANCELLED)
        return _view(row, None)


def sweep_uploads(database: Database, artifacts: Artifacts) -> int:
    """End the uploads whose time has passed, and remove the parts that nothing needs; return their number."""
    with database.transaction(Scope.everything) as session:
        going = uploads.expire_uploads(session)
    for uri in going:
        try:
            artifacts.remove(uri)
        except StorageError as error:
            logger.warning("%s could not be removed: %s", uri, error)
    return len(going)


def file_id_of(upload_id: str) -> str:
    """Return the id of the file that an upload becomes."""
    return f"file-{upload_id.removeprefix('upload-')}"


def _join(settings: Settings, uris: Sequence[str], filename: str, md5: str | None) -> Stored:
    artifacts = Artifacts(settings.artifacts)
    digest = hashlib.md5(usedforsecurity=False)
    with IncomingFile(artifacts) as incoming:
        for uri in uris:
            for piece in artifacts.read_parts(uri):
                incoming.write(piece)
                digest.update(piece)
        if md5 is not None and digest.hexdigest() != md5.lower():
            raise RequestError(f"md5: the parts have {digest.hexdigest()}.", param="md5")
        return incoming.commit(suffix_of(filename) or ".jsonl")


def _end(tenant: str, upload_id: str, status: str, file: FileView | None = None) -> UploadView:
    with get_database().transaction(Scope.of(tenant)) as session:
        row = uploads.end_upload(session, tenant, upload_id, status, file.id if file else None)
        return _view(row, file)


def _view(row: Upload, file: FileView | None) -> UploadView:
    return UploadView(
        id=row.id,
        filename=row.filename,
        purpose=row.purpose,
        size_bytes=row.size_bytes,
        status=row.status,
        created_at=row.created_at.timestamp(),
        expires_at=row.expires_at.timestamp(),
        file=file,
    )


def _part(row: UploadPart) -> PartView:
    return PartView(id=row.id, upload_id=row.upload_id, created_at=row.created_at.timestamp())
