"""Deletes a tenant with everything that it owns.

The keys and the schedules go first, so that the tenant asks for nothing more; then its jobs are cancelled, and the
deletion waits until their workers have ended them. The files are removed before the rows: after a crash the rows still
name what is left, and a second deletion goes on. A content that another tenant has, too, stays.
"""

import time
from dataclasses import dataclass

from sqlalchemy import delete
from sqlalchemy.orm import Session

from ..errors import NotFoundError, SettingsError, UnavailableError
from ..models.database import get_database
from ..models.openai import files
from ..models.scope.scope import Scope
from ..models.tables import Schedule, Tenant
from ..models.tenants import deletion as rows
from ..models.tenants import keys
from ..models.tenants.audit import current_actor, record_audit
from ..models.tenants.limits import stored_bytes
from ..settings.secrets import INSTALLATION, Secrets
from ..settings.settings import Settings, get_settings
from ..storage.artifacts import Artifacts
from . import jobs
from .locks import content_lock, with_lock

DATASETS = "datasets"
"""The folder of the artifacts that holds contents by their hash."""
UPLOADS = "uploads"
"""The folder of the artifacts that holds the parts of uploads, by tenant."""
LOOK_S = 0.5
"""Seconds between two looks at the jobs that are being cancelled."""


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """Everything that a tenant owns.

    Attributes:
        tenant: The tenant.
        rows: Rows by table; tables without any are left out.
        unfinished: Jobs that have not ended.
        stored_bytes: Bytes of files, datasets, checkpoints and adapters.
        secrets: Names of its secrets on this machine.
    """

    tenant: str
    rows: dict[str, int]
    unfinished: int
    stored_bytes: int
    secrets: list[str]


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """A tenant that was deleted.

    Attributes:
        tenant: Its name.
        rows: Deleted rows by table.
        cancelled: Jobs that had to be cancelled.
        contents: Contents of files and datasets that were removed.
        shared: Contents that stay, since another tenant or a job has them, too.
    """

    tenant: str
    rows: dict[str, int]
    cancelled: int
    contents: int
    shared: int


def holdings(name: str) -> Holdings:
    """Counts everything that a tenant owns.

    Raises:
        NotFoundError: There is no such tenant.
        SettingsError: It is the installation's own.
    """
    with get_database().session(Scope.everything) as session:
        _require(session.get(Tenant, name), name)
        return Holdings(
            tenant=name,
            rows=rows.count_rows(session, name),
            unfinished=len(rows.unfinished_jobs(session, name)),
            stored_bytes=stored_bytes(session, name),
            secrets=Secrets(get_settings().home, name).names(),
        )


def delete_tenant(name: str, *, wait_s: float = 60.0) -> Deleted:
    """Deletes a tenant: its keys and schedules, its jobs, their files, its datasets and secrets, and its row.

    Args:
        name: The tenant.
        wait_s: Seconds within which the running jobs must end after their cancel.

    Raises:
        NotFoundError: There is no such tenant.
        SettingsError: It is the installation's own.
        UnavailableError: A job still runs; its keys are revoked, its schedules deleted and its jobs cancelled so far.
    """
    settings = get_settings()
    _stop_requests(name)
    cancelled = _cancel_jobs(name, wait_s)
    removed, shared = _remove_files(settings, name)
    Secrets(settings.home, name).clear()
    with get_database().transaction(Scope.everything) as session:
        _require(rows.lock_tenant(session, name), name)
        if left := rows.unfinished_jobs(session, name):
            raise _still_runs(left)
        counts = rows.count_rows(session, name)
        rows.delete_rows(session, name)
        after = {"rows": counts, "contents_removed": removed, "contents_shared": shared}
        record_audit(session, current_actor(), "tenant.delete", name, after, None, tenant=name)
    return Deleted(tenant=name, rows=counts, cancelled=cancelled, contents=removed, shared=shared)


def _stop_requests(name: str) -> None:
    """Revoke the tenant's keys and delete its schedules, so that no new job comes."""
    with get_database().transaction(Scope.everything) as session:
        _require(rows.lock_tenant(session, name), name)
        for key in keys.list_keys(session, tenant=name):
            if key.revoked_at is None:
                keys.revoke_key(session, key.id)
                record_audit(session, current_actor(), "key.revoke", key.id, {"name": key.name}, None, tenant=name)
        session.execute(delete(Schedule).where(Schedule.tenant == name))


def _cancel_jobs(name: str, wait_s: float) -> int:
    """Cancel the jobs that have not ended, and wait for their workers; return their number."""
    with get_database().session(Scope.everything) as session:
        unfinished = rows.unfinished_jobs(session, name)
    for job_id in unfinished:
        jobs.cancel(job_id, scope=Scope.of(name))
    until, left = time.monotonic() + wait_s, unfinished
    while left := _unfinished(name) if left else []:
        if time.monotonic() >= until:
            raise _still_runs(left)
        time.sleep(LOOK_S)
    return len(unfinished)


def _unfinished(name: str) -> list[str]:
    with get_database().session(Scope.everything) as session:
        return rows.unfinished_jobs(session, name)


def _remove_files(settings: Settings, name: str) -> tuple[int, int]:
    """Remove the files of the tenant's jobs and the contents that nobody else has; return the numbers of both kinds."""
    artifacts = Artifacts(settings.artifacts)
    stored = f"{artifacts.uri(DATASETS)}/"
    with get_database().session(Scope.everything) as session:
        ended = rows.job_ids(session, name)
        contents = [uri for uri in rows.contents(session, name) if uri.startswith(stored)]
    for job_id in ended:
        artifacts.remove(artifacts.uri("jobs", job_id))
    artifacts.remove(artifacts.uri(UPLOADS, name))

    def remove(session: Session, uri: str) -> bool:
        if rows.is_needed_by_others(session, name, uri) or files.needed_by_job(session, uri):
            return False
        artifacts.remove(uri.rsplit("/", 1)[0])
        return True

    removed = sum(with_lock(content_lock(uri), lambda session, uri=uri: remove(session, uri)) for uri in contents)
    return removed, len(contents) - removed


def _require(row: Tenant | None, name: str) -> None:
    if row is None:
        raise NotFoundError(f"there is no tenant {name[:64]!r}.", hint="See `celora tenant list`.")
    if name == INSTALLATION:
        raise SettingsError(
            f"the tenant {name} is the installation's own and can't be deleted.",
            hint="Remove its jobs' data by CELORA_KEEP_CHECKPOINT_DAYS, or begin a new CELORA_HOME.",
        )


def _still_runs(left: list[str]) -> UnavailableError:
    some = ", ".join(left[:3]) + (" and more" if len(left) > 3 else "")  # noqa: PLR2004  (three are shown)
    return UnavailableError(
        f"{len(left)} jobs still run ({some}); they were cancelled, and their workers have not ended them yet.",
        hint="Run the command again when they have ended; its keys and schedules are gone already.",
    )
