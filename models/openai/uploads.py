"""Reads and writes the rows of uploads and their parts."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from ...errors import RequestError
from ..database import now
from ..rows import upsert_insert
from ..tables import Tenant, Upload, UploadPart

PENDING, COMPLETED, CANCELLED, EXPIRED = "pending", "completed", "cancelled", "expired"
LIFE_S = 3600
"""Seconds in which an upload must be complete, as at OpenAI."""
KEPT_S = 24 * 3600.0
"""Seconds for which the row of an upload stays after its time, so that a repeated request finds its answer."""


def add_upload(session: Session, *, upload_id: str, tenant: str, facts: Mapping[str, Any]) -> Upload:
    """Write a new upload's row.

    Args:
        session: An open session.
        upload_id: Its id.
        tenant: Its owner, whose row is made where it is missing.
        facts: ``filename``, ``purpose``, ``size_bytes``, ``file_expires_s``.
    """
    at = now(session)
    owner = upsert_insert(session, Tenant).values(name=tenant, created_at=at)
    session.execute(owner.on_conflict_do_nothing(index_elements=["name"]))
    times = {"created_at": at, "expires_at": at + timedelta(seconds=LIFE_S)}
    row = Upload(id=upload_id, tenant=tenant, status=PENDING, **times, **facts)
    session.add(row)
    session.flush()
    return row


def find_upload(session: Session, tenant: str, upload_id: str) -> Upload:
    """Find a tenant's upload; one whose time has passed reads as expired.

    Raises:
        RequestError: There is no such upload of this tenant (404).
    """
    wanted = select(Upload).where(Upload.id == upload_id, Upload.tenant == tenant).with_for_update()
    row = session.scalars(wanted).one_or_none()
    if row is None:
        raise RequestError(f"there is no upload {upload_id[:100]}.", reason="upload_not_found", status=404)
    if row.status == PENDING and row.expires_at < now(session):
        row.status = EXPIRED
        session.flush()
    return row


def find_pending(session: Session, tenant: str, upload_id: str) -> Upload:
    """Find a tenant's upload that takes parts.

    Raises:
        RequestError: There is none (404), or it is completed, cancelled or expired (400).
    """
    row = find_upload(session, tenant, upload_id)
    if row.status != PENDING:
        raise RequestError(f"the upload is {row.status}; make a new one.", reason="invalid_state")
    return row


def add_part(session: Session, tenant: str, upload_id: str, part: Mapping[str, Any]) -> UploadPart:
    """Write the row of a part whose content is stored.

    Args:
        session: An open session.
        tenant: The owner of the upload.
        upload_id: The upload.
        part: ``id``, ``size_bytes``, ``uri``.

    Raises:
        RequestError: There is no such upload (404), it takes no parts any more, or the parts are larger than it (400).
    """
    row = find_pending(session, tenant, upload_id)
    of_upload = select(func.coalesce(func.sum(UploadPart.size_bytes), 0)).where(UploadPart.upload_id == upload_id)
    known = int(session.scalar(of_upload) or 0)
    if known + int(part["size_bytes"]) > row.size_bytes:
        raise RequestError(
            f"data: the parts would have {known + int(part['size_bytes'])} bytes, and the upload was announced with "
            f"{row.size_bytes}.",
            param="data",
        )
    made = UploadPart(upload_id=upload_id, created_at=now(session), **part)
    session.add(made)
    session.flush()
    return made


def parts_of(session: Session, tenant: str, upload_id: str, part_ids: Sequence[str]) -> list[UploadPart]:
    """Return the parts of a tenant's upload in the order of their ids.

    Raises:
        RequestError: There is no such upload (404), an id is no part of it or stands twice, or the sizes do not add up.
    """
    row = find_upload(session, tenant, upload_id)
    wanted = select(UploadPart).where(UploadPart.upload_id == upload_id, UploadPart.id.in_(part_ids))
    found = {part.id: part for part in session.scalars(wanted)}
    missing = [part_id for part_id in part_ids if part_id not in found]
    if missing or len(set(part_ids)) < len(part_ids):
        wrong = f"{missing[0][:100]} is no part of this upload" if missing else "a part stands twice"
        raise RequestError(f"part_ids: {wrong}.", param="part_ids")
    size_bytes = sum(part.size_bytes for part in found.values())
    if size_bytes != row.size_bytes:
        raise RequestError(
            f"part_ids: the parts have {size_bytes} bytes, and the upload was announced with {row.size_bytes}.",
            param="part_ids",
        )
    return [found[part_id] for part_id in part_ids]


def claim_joining(session: Session, tenant: str, upload_id: str, for_s: float) -> Upload:
    """Claim the joining of a tenant's pending upload for some time.

    Raises:
        RequestError: There is none (404), it takes no parts any more (400), or another request joins it (409).
    """
    row, at = find_pending(session, tenant, upload_id), now(session)
    if row.joining_until is not None and row.joining_until > at:
        raise RequestError("another request completes this upload.", reason="invalid_state", status=409)
    row.joining_until = at + timedelta(seconds=for_s)
    session.flush()
    return row


def end_upload(session: Session, tenant: str, upload_id: str, status: str, file_id: str | None = None) -> Upload:
    """End a pending upload, or give its joining up where the status is pending.

    Raises:
        RequestError: There is no such upload (404).
    """
    row = find_upload(session, tenant, upload_id)
    row.status, row.file_id, row.joining_until = status, file_id, None
    session.flush()
    return row


def expire_uploads(session: Session) -> list[str]:
    """Mark the pending uploads whose time has passed; list the contents of parts that nothing needs, and forget them.

    Rows of uploads stay for a day after their time.
    """
    at = now(session)
    due = update(Upload).where(Upload.status == PENDING, Upload.expires_at < at, _free(at)).values(status=EXPIRED)
    session.execute(due.execution_options(synchronize_session=False))
    ended = select(UploadPart).join(Upload, Upload.id == UploadPart.upload_id).where(Upload.status != PENDING)
    going = list(session.scalars(ended))
    for part in going:
        session.delete(part)
    for row in session.scalars(select(Upload).where(Upload.expires_at < at - timedelta(seconds=KEPT_S))):
        session.delete(row)
    session.flush()
    return [part.uri for part in going]


def _free(at: Any) -> Any:
    return or_(Upload.joining_until.is_(None), Upload.joining_until < at)
