"""Reads and writes the rows beside jobs that came over HTTP: requests, keys of repeated requests, labels."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, exists, select
from sqlalchemy.orm import Session

from ...errors import RequestError
from .. import queries
from ..database import now
from ..states import Status
from ..tables import IdempotencyKey, Job, JobLabel, JobRequest
from .pages import page_by_age

REPEAT_S = 600.0
"""Seconds in which an equal request that a client marks as a repetition is the same request."""
KEPT_S = 24 * 3600.0
"""Seconds for which a key of a client's own is remembered."""
MOST_LABELS = 16


def repeated(session: Session, tenant: str, body_sha256: str) -> str | None:
    """Return the job that an equal request with the same API key made a moment ago; None if there is none."""
    recent = JobRequest.created_at > now(session) - timedelta(seconds=REPEAT_S)
    wanted = select(JobRequest.job_id).where(JobRequest.tenant == tenant, JobRequest.body_sha256 == body_sha256, recent)
    return session.scalar(wanted.order_by(JobRequest.created_at.desc()).limit(1))


def of_key(session: Session, tenant: str, key: str, body_sha256: str) -> str | None:
    """Return the job that a request with this key made; None if the key is new or old enough to be forgotten.

    Raises:
        RequestError: The key belongs to another request (409).
    """
    row = session.get(IdempotencyKey, (tenant, key))
    if row is None:
        return None
    if row.created_at < now(session) - timedelta(seconds=KEPT_S):
        session.delete(row)
        session.flush()
        return None
    if row.body_sha256 != body_sha256:
        raise RequestError(
            "this Idempotency-Key belongs to another request.",
            reason="idempotency_conflict",
            status=409,
            headers={"x-should-retry": "false"},
        )
    return row.job_id


def remember_key(session: Session, tenant: str, key: str, body_sha256: str, job_id: str) -> None:
    """Record the job that a request with this key made."""
    row = IdempotencyKey(tenant=tenant, key=key, body_sha256=body_sha256, job_id=job_id, created_at=now(session))
    session.add(row)
    session.flush()


def forget_keys(session: Session) -> None:
    """Delete the keys that are old enough."""
    old = IdempotencyKey.created_at < now(session) - timedelta(seconds=KEPT_S)
    session.execute(delete(IdempotencyKey).where(old))


def of_jobs(session: Session, job_ids: Sequence[str]) -> dict[str, JobRequest]:
    """Return the requests behind jobs, by the id of the job; a job that came another way is left out."""
    rows = session.scalars(select(JobRequest).where(JobRequest.job_id.in_(job_ids)))
    return {row.job_id: row for row in rows}


def find_job(session: Session, tenant: str, job_id: str) -> Job:
    """Find a tenant's job by its whole id.

    Raises:
        RequestError: There is no such job of this tenant (404).
    """
    wanted = select(Job).options(*queries.LARGE[:2]).where(Job.id == job_id, Job.tenant == tenant)
    job = session.scalars(wanted).one_or_none()
    if job is None:
        raise RequestError(f"there is no job {job_id[:100]}.", reason="job_not_found", status=404)
    return job


def page(
    session: Session,
    tenant: str,
    *,
    after: str | None,
    limit: int,
    labels: Mapping[str, str] | None,
    status: Status | None = None,
) -> tuple[list[Job], bool]:
    """List a tenant's jobs, the newest first.

    Args:
        session: An open session.
        tenant: The owner.
        after: The id of the last job of the page before.
        limit: The length of the page.
        labels: Labels that the jobs must have; an empty mapping asks for nothing, None for jobs without labels.
        status: The status that the jobs must have; any unless given.

    Returns:
        The jobs, and True if more follow.

    Raises:
        RequestError: ``after`` is no job of this tenant.
    """
    wanted = select(Job).options(*queries.LARGE).where(Job.tenant == tenant, *_labelled(tenant, labels))
    if status is not None:
        wanted = wanted.where(Job.status == status)
    return page_by_age(session, Job, wanted, tenant, after=after, limit=limit)


def _labelled(tenant: str, labels: Mapping[str, str] | None) -> list[ColumnElement[bool]]:
    if labels is None:
        return [~exists().where(JobLabel.job_id == Job.id)]
    return [
        Job.id.in_(
            select(JobLabel.job_id).where(JobLabel.tenant == tenant, JobLabel.key == key, JobLabel.value == value)
        )
        for key, value in labels.items()
    ]
