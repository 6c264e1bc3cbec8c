"""Keeps the files of tenants: receives, lists, reads and deletes them, and asks a worker to check each.

A file is *accepted* once its row is committed. The message that asks for its check may get lost; a scheduling round
sends it again (``services.rounds.file_checks``).
"""

import secrets
import time
from collections.abc import Generator
from dataclasses import dataclass

from sqlalchemy.orm import Session

from ...errors import NotFoundError, StorageError, TenantLimitError
from ...models.database import get_database
from ...models.openai import files
from ...models.openai.pages import Order
from ...models.scope.scope import Scope
from ...models.tables import File
from ...models.tenants.audit import current_actor, record_audit
from ...settings.failpoints import hit
from ...settings.settings import Settings
from ...storage.artifacts import Artifacts
from ...storage.incoming import Stored
from ...workers import messages, queues
from ...workers.celery import app
from ..job_checks import check_tenant
from ..locks import content_lock, with_lock
from ..tenants import words
from ..tenants.storage import check_storage

TASK = "celora.check_file"
PURPOSE = "fine-tune"
"""The one purpose that people may send files for."""
RESULTS = "fine-tune-results"
"""The purpose of the files that celora makes of a job's measurements."""
LONGEST_NAME = 255
RESEND_S = 600.0
"""Seconds after which the message of a check that has not begun is sent again; the older one has expired then."""


@dataclass(frozen=True, kw_only=True)
class FileView:
    """A file as its owner sees it.

    ``status`` is uploaded (not checked yet), processed or error; ``status_details`` names the bad lines.
    """

    id: str
    filename: str
    purpose: str
    size_bytes: int
    created_at: float
    expires_at: float | None
    status: str
    status_details: str | None
    uri: str


def new_id(kind: str) -> str:
    """Make an id that sorts by time: ``file-``, 12 hex digits of milliseconds, 20 random ones."""
    return f"{kind}-{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def create(
    tenant: str,
    stored: Stored,
    settings: Settings,
    *,
    filename: str,
    purpose: str = PURPOSE,
    expires_s: int | None = None,
    file_id: str | None = None,
) -> FileView:
    """Record a file whose content is stored, and ask for its check.

    Args:
        tenant: The owner.
        stored: The content.
        settings: The installation's.
        filename: The name that its owner gave.
        purpose: The use of the file.
        expires_s: Seconds until it expires; never unless given.
        file_id: The id, where it is known before; a file that has it already is returned as it is.

    Raises:
        StorageError: Its content was removed at this moment; sending it again helps.
        TenantLimitError: The tenant has no room for it; its content is removed unless something else needs it.
        NotFoundError: There is no such tenant, and the installation makes none by its first use.
    """
    facts = {"filename": shown_name(filename), "purpose": purpose, "uri": stored.uri}
    facts |= {"sha256": stored.sha256, "size_bytes": stored.size_bytes}
    status = files.UPLOADED if purpose == PURPOSE else files.PROCESSED
    hit("file.stored")

    def add(session: Session) -> FileView:
        if not Artifacts(settings.artifacts).exists(stored.uri):
            raise StorageError(f"{stored.uri} is gone.", hint="Send the file again.")
        known = session.get(File, file_id) if file_id else None
        if known is not None:
            return view_of(known)
        check_tenant(session, tenant, settings)
        if purpose == PURPOSE:
            check_storage(session, tenant, stored.size_bytes)
        chosen = file_id or new_id("file")
        row = files.add(session, file_id=chosen, tenant=tenant, facts=facts, status=status, expires_after_s=expires_s)
        after = {"filename": row.filename, "size_bytes": row.size_bytes, "sha256": row.sha256}
        record_audit(session, current_actor(), "file.create", chosen, None, after, tenant=tenant)
        return view_of(row)

    try:
        made = with_lock(content_lock(stored.uri), add)
    except (TenantLimitError, NotFoundError):
        with_lock(content_lock(stored.uri), lambda session: remove_content(session, settings, stored.uri))
        raise
    hit("file.committed")
    if made.status == files.UPLOADED:
        request_check(made.id)
    return made


def remove_content(session: Session, settings: Settings, uri: str) -> bool:
    """Remove a content unless something needs it; the caller holds its lock. Return whether it was removed."""
    if files.needed_by_job(session, uri) or not files.forget(session, uri):
        return False
    Artifacts(settings.artifacts).remove(uri.rsplit("/", 1)[0])
    return True


def find(tenant: str, file_id: str) -> FileView:
    """Find a tenant's file.

    Raises:
        RequestError: There is no such file (404).
    """
    with get_database().session(Scope.of(tenant)) as session:
        return view_of(files.find(session, tenant, file_id))


def page(
    tenant: str, *, after: str | None, limit: int, order: Order, purpose: str | None
) -> tuple[list[FileView], bool]:
    """List a tenant's files; the second value is True if more follow.

    Raises:
        RequestError: ``after`` is no file of this tenant.
    """
    with get_database().session(Scope.of(tenant)) as session:
        rows, more = files.page(session, tenant, after=after, limit=limit, order=order, purpose=purpose)
        return [view_of(row) for row in rows], more


def delete(tenant: str, file_id: str) -> None:
    """Delete a file; a job that is under way reads its content to its end.

    Raises:
        RequestError: There is no such file (404).
    """
    with get_database().transaction(Scope.of(tenant)) as session:
        filename = files.find(session, tenant, file_id).filename
        files.delete(session, tenant, file_id)
        record_audit(session, current_actor(), "file.delete", file_id, {"filename": filename}, None, tenant=tenant)


def content(tenant: str, file_id: str, settings: Settings) -> tuple[FileView, Generator[bytes]]:
    """Return a file and its content in parts.

    Raises:
        RequestError: There is no such file (404).
        StorageError: Its content can't be read.
    """
    found = find(tenant, file_id)
    return found, Artifacts(settings.artifacts).read_parts(found.uri)


def request_check(file_id: str) -> bool:
    """Send the message that asks a worker to check a file; False if it may be lost."""
    kwargs = {"file_id": file_id}

    def send() -> None:
        app.send_task(
            TASK,
            kwargs=kwargs,
            queue=queues.PREP,
            priority=queues.AFTER_STAGES,
            expires=RESEND_S,
            retry=False,
            ignore_result=True,
        )

    return messages.attempt(send, f"the check of {file_id}")


def view_of(file: File) -> FileView:
    """Build the view of a file's row."""
    return FileView(
        id=file.id,
        filename=file.filename,
        purpose=file.purpose,
        size_bytes=file.size_bytes,
        created_at=file.created_at.timestamp(),
        expires_at=file.expires_at.timestamp() if file.expires_at else None,
        status=file.status,
        status_details=words.text(file.status_details) if file.status_details else None,
        uri=file.uri,
    )


def shown_name(given: str) -> str:
    """Shorten the name of a file to its last part; the name is shown and never opened."""
    last = given.replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(letter for letter in last if letter.isprintable())
    return shown[-LONGEST_NAME:] or "file"
