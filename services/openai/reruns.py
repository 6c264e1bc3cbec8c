"""Submits the jobs of another service again: keeps their files for a tenant, and makes one job of each.

The new job's id is made of the tenant's name and the place of the old job. So an import that is repeated, also after it
broke off, submits nothing twice.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...models.database import get_database
from ...models.openai import files as file_rows
from ...models.scope.scope import Scope
from ...models.tables import Job
from ...settings.settings import Settings
from ...storage.artifacts import Artifacts
from ...storage.incoming import IncomingFile
from ...storage.manifest import file_sha256
from ...tuning.files.suffixes import suffix_of
from .. import jobs
from .files import FileView, create, shown_name, view_of

LABEL = "moved_from"
"""The label of a new job that names the old one."""
MOST_LABELS = 16
PART_BYTES = 1 << 20


def rerun_id(tenant: str, source: str, job_id: str) -> str:
    """Make the id of the job that does a job of another service again.

    Args:
        tenant: The owner here.
        source: The URL of the service.
        job_id: The job there.
    """
    digest = hashlib.sha256(f"{tenant}\n{source}\n{job_id}".encode()).hexdigest()
    return f"ftjob-moved-{digest[:24]}"


def exists(tenant: str, job_id: str) -> bool:
    """Return whether a tenant has a job."""
    with get_database().session(Scope.of(tenant)) as session:
        return session.get(Job, job_id) is not None


def keep_file(tenant: str, path: Path, filename: str, settings: Settings) -> FileView:
    """Keep a file for a tenant; one that it has by content and name is returned as it is.

    Raises:
        TenantLimitError: The tenant has no room for it.
        StorageError: It can't be written.
    """
    name = shown_name(filename)
    with get_database().session(Scope.of(tenant)) as session:
        known = file_rows.of_content(session, tenant, file_sha256(path), name)
        if known is not None:
            return view_of(known)
    with IncomingFile(Artifacts(settings.artifacts)) as incoming, path.open("rb") as content:
        while part := content.read(PART_BYTES):
            incoming.write(part)
        stored = incoming.commit(suffix_of(name) or ".jsonl")
    return create(tenant, stored, settings, filename=name)


def submit_rerun(tenant: str, job_id: str, fields: Mapping[str, Any], *, moved_from: str) -> None:
    """Submit a job again; one that was submitted before stays as it is.

    Args:
        tenant: The owner.
        job_id: The new job's id (``rerun_id``).
        fields: The job spec.
        moved_from: The id of the job there, which becomes a label where there is room for one.

    Raises:
        CeloraError: The job is refused.
    """
    labels: dict[str, str] = dict(fields.get("metadata") or {})
    if len(labels) < MOST_LABELS:
        labels.setdefault(LABEL, moved_from)
    jobs.submit({**fields, "metadata": labels}, job_id=job_id, scope=Scope.of(tenant))
