"""Reads and writes the rows of files.

A file that is deleted or has expired does not appear any more; its row stays until its content can be removed.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, or_, select
from sqlalchemy.orm import Session

from ...errors import RequestError
from ..database import now
from ..rows import upsert_insert
from ..states import LIVE
from ..tables import Dataset, File, Job, Tenant
from ..tables.types import JsonObject
from .pages import Order, page_by_age

UPLOADED, PROCESSED, ERROR = "uploaded", "processed", "error"
MOST_CHECKS = 3
"""Tries of a check; a check that could not be run so often ends the file with an error that says so."""


def add(
    session: Session,
    *,
    file_id: str,
    tenant: str,
    facts: Mapping[str, Any],
    status: str = UPLOADED,
    expires_after_s: int | None = None,
) -> File:
    """Write a new file's row.

    Args:
        session: An open session.
        file_id: Its id.
        tenant: Its owner, whose row is made where it is missing.
        facts: ``filename``, ``purpose``, ``size_bytes``, ``sha256``, ``uri``.
        status: ``uploaded`` for a file that is to be checked.
        expires_after_s: Seconds until it expires; never unless given.
    """
    at = now(session)
    owner = upsert_insert(session, Tenant).values(name=tenant, created_at=at)
    session.execute(owner.on_conflict_do_nothing(index_elements=["name"]))
    expires_at = at + timedelta(seconds=expires_after_s) if expires_after_s else None
    times = {"created_at": at, "check_sent_at": at, "expires_at": expires_at}
    file = File(id=file_id, tenant=tenant, status=status, **times, **facts)
    session.add(file)
    session.flush()
    return file


def find(session: Session, tenant: str, file_id: str) -> File:
    """Find a tenant's file.

    Raises:
        RequestError: There is no such file of this tenant (404).
    """
    wanted = select(File).where(File.id == file_id, File.tenant == tenant, *_present(session))
    file = session.scalars(wanted).one_or_none()
    if file is None:
        raise RequestError(f"there is no file {file_id[:100]}.", reason="file_not_found", status=404)
    return file


def of_content(session: Session, tenant: str, sha256: str, filename: str) -> File | None:
    """Find the oldest file of a tenant that has a content and a name and does not expire; None without one."""
    same = select(File).where(File.tenant == tenant, File.sha256 == sha256, File.filename == filename)
    lasting = (File.expires_at.is_(None), File.deleted_at.is_(None))
    return session.scalars(same.where(*lasting).order_by(File.created_at, File.id).limit(1)).first()


def page(
    session: Session, tenant: str, *, after: str | None, limit: int, order: Order, purpose: str | None
) -> tuple[list[File], bool]:
    """List a tenant's files by their age.

    Args:
        session: An open session.
        tenant: The owner.
        after: The id of the last file of the page before.
        limit: The length of the page.
        order: ``desc`` lists the newest first.
        purpose: The purpose that the files must have; any unless given.

    Returns:
        The files, and True if more follow.

    Raises:
        RequestError: ``after`` is no file of this tenant.
    """
    wanted = select(File).where(File.tenant == tenant, *_present(session))
    if purpose is not None:
        wanted = wanted.where(File.purpose == purpose)
    return page_by_age(session, File, wanted, tenant, after=after, limit=limit, order=order)


def delete(session: Session, tenant: str, file_id: str) -> None:
    """Mark a file as deleted.

    Raises:
        RequestError: There is no such file of this tenant (404).
    """
    find(session, tenant, file_id).deleted_at = now(session)
    session.flush()


@cache
def _unchecked_statement(limit: int) -> Select[File]:
    """Build the search for lost checks, once: each tick makes it, and nearly none finds a file."""
    at, sent_before = (bindparam(name, type_=File.check_sent_at.type) for name in ("at", "sent_before"))
    free = or_(File.checked_until.is_(None), File.checked_until < at)
    present = (File.deleted_at.is_(None), or_(File.expires_at.is_(None), File.expires_at > at))
    wanted = select(File).where(File.status == UPLOADED, free, File.check_sent_at < sent_before, *present)
    return wanted.order_by(File.check_sent_at).limit(limit).with_for_update(skip_locked=True)


def unchecked(session: Session, resend_s: float, limit: int = 100) -> list[str]:
    """List the files whose check was asked for that long ago and runs nowhere, and note that it is asked for again."""
    at = now(session)
    times = {"at": at, "sent_before": at - timedelta(seconds=resend_s)}
    found = list(session.scalars(_unchecked_statement(limit), times))
    for file in found:
        file.check_sent_at = at
    session.flush()
    return [file.id for file in found]


def claim_check(session: Session, file_id: str, for_s: float) -> File | None:
    """Claim a file's check for some time; None if it has ended, or another worker holds it."""
    at = now(session)
    free = or_(File.checked_until.is_(None), File.checked_until < at)
    wanted = select(File).where(File.id == file_id, File.status == UPLOADED, free).with_for_update()
    file = session.scalars(wanted).one_or_none()
    if file is None:
        return None
    file.checks, file.checked_until = file.checks + 1, at + timedelta(seconds=for_s)
    session.flush()
    return file


def end_check(session: Session, file_id: str, *, rows: int | None, fault: str | None) -> None:
    """Record the result of a check: the rows of good data, or the fault."""
    file = session.get(File, file_id)
    if file is not None and file.status == UPLOADED:
        file.status = PROCESSED if fault is None else ERROR
        file.rows, file.status_details = rows, fault
        session.flush()


def expire(session: Session) -> int:
    """Mark the files as deleted whose time has passed; return their number."""
    at = now(session)
    due = list(session.scalars(select(File).where(File.expires_at < at, File.deleted_at.is_(None))))
    for file in due:
        file.deleted_at = at
    session.flush()
    return len(due)


def removable(session: Session, before: datetime) -> list[str]:
    """List the contents of files that were deleted before a time."""
    return list(session.scalars(select(File.uri).where(File.deleted_at < before).distinct()))


def forget(session: Session, uri: str) -> bool:
    """Delete the rows of a content's deleted files; True if nothing in the record needs the content any more.

    A content is needed by a file that is not deleted, by a version of a dataset, and by an unfinished job.
    """
    for file in session.scalars(select(File).where(File.uri == uri, File.deleted_at.is_not(None))):
        session.delete(file)
    session.flush()
    others = session.scalar(select(func.count()).select_from(File).where(File.uri == uri))
    versions = session.scalar(select(func.count()).select_from(Dataset).where(Dataset.uri == uri))
    return not others and not versions


def needed_by_job(session: Session, uri: str) -> bool:
    """Return whether an unfinished job reads the content; its spec is JSON, so Python compares."""
    specs = session.scalars(select(Job.spec).where(Job.status.in_(LIVE)))
    return any(uri in _sources(spec) for spec in specs)


def _sources(spec: JsonObject) -> list[object]:
    """Return the sources of a spec: training rows, held-out rows, and the rows that its gate requires."""
    gate: JsonObject = spec.get("gate") or {}
    return [spec.get("dataset"), *_held_out(spec.get("eval_dataset")), gate.get("must_pass")]


def _held_out(given: object) -> list[object]:
    return list(given.values()) if isinstance(given, dict) else [given]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _present(session: Session) -> tuple[ColumnElement[bool], ...]:
    return File.deleted_at.is_(None), or_(File.expires_at.is_(None), File.expires_at > now(session))
