"""Writes a new job into the record: one that is accepted, or one whose spec is refused."""

import hashlib

from sqlalchemy.orm import Session

from ...errors import SettingsError
from ..columns import request_of
from ..database import now
from ..events import Level, record_event
from ..notifications.notices import Notice, queue_notice
from ..queue.labels import label_text
from ..rows import lock_if, upsert_insert
from ..spec import JobSpec
from ..states import FINAL, Stage, Status
from ..tables import Job, JobLabel, Tenant
from ..tables.types import JsonObject
from ..tenants.limits import TENANT_NAME
from .expiry import EXPIRED, expiry_of
from .outbox import queue_announcement

_NEW: JsonObject = {"stage": Stage.PREPARE, "warnings": []}


def submit(
    session: Session,
    *,
    job_id: str,
    spec: JobSpec,
    tenant: str | None = None,
    request: JsonObject | None = None,
) -> tuple[Job, bool]:
    """Write a job into the record; a known id returns its row, and takes the request if it had none.

    A seed that was left open is derived from the id, so that it stands in the record.

    Args:
        session: An open session.
        job_id: The job's id.
        spec: The valid spec.
        tenant: The tenant, if not the spec's own.
        request: The caller's Celery request, which is answered at the job's end.

    Returns:
        The row, and True if it is new.

    Raises:
        SettingsError: Another tenant has a job of that id; only a session of one tenant refuses it.
    """
    seed = spec.seed if spec.seed is not None else _seed(job_id)
    owner = tenant or spec.tenant
    values: JsonObject = {
        "id": job_id,
        "tenant": owner,
        "user": spec.user,
        "gpu": spec.gpu,
        "priority": spec.priority,
        "job_class": spec.job_class,
        "labels": label_text(spec.labels),
        "spec": spec.model_dump(mode="json") | {"seed": seed, "tenant": owner},
        "status": Status.PENDING,
        "request": request,
        "expires_at": expiry_of(request),
    }
    job, created = _create(session, values, "info", "submitted", f"submitted by {spec.user or 'nobody named'}")
    if created:
        about = {"job_id": job_id, "tenant": owner, "created_at": job.created_at}
        session.add_all(JobLabel(key=key, value=value, **about) for key, value in spec.metadata.items())
        session.flush()
    return job, created


def reject(
    session: Session,
    job_id: str,
    fields: JsonObject,
    error: JsonObject,
    request: JsonObject | None = None,
    *,
    new_tenant: bool = True,
) -> Job:
    """Write a job whose spec is refused as a failed row, so that its id answers; a known id stays as it is.

    Only a request that is given gets an announcement. Without one the caller has the native failure already. A tenant
    that cannot be one, or that must not be made here (``new_tenant``), is replaced by ``default``.
    """
    tenant = fields.get("tenant")
    fits = isinstance(tenant, str) and TENANT_NAME.fullmatch(tenant) is not None
    fits = fits and (new_tenant or session.get(Tenant, tenant) is not None)
    values: JsonObject = {
        "id": job_id,
        "tenant": tenant if fits else "default",
        "user": str(fields.get("user", ""))[:200],
        "gpu": str(fields.get("gpu", "auto"))[:32],
        "spec": fields,
        "status": Status.FAILED,
        "error": error,
        "request": request,
        "expires_at": None,
    }
    job, created = _create(session, values, "error", "rejected", str(error.get("message", "")))
    if created:
        job.finished_at = job.created_at
        if request is not None:
            queue_announcement(session, job_id)
        queue_notice(session, Notice.FAILED, job.tenant, job_id, job_id=job_id)
        session.flush()
    return job


def announce_again(session: Session, job_id: str, request: JsonObject) -> None:
    """Queue the announcement of a final job's end once more, to the caller of this request and to its callbacks."""
    job = lock_if(session, job_id, Job.status.in_(FINAL))
    if job is None:
        return
    ended_by = {EXPIRED: True} if request_of(job).get(EXPIRED) else {}
    job.request = {**request, **ended_by}
    queue_announcement(session, job_id)
    session.flush()


def _create(session: Session, values: JsonObject, level: Level, kind: str, message: str) -> tuple[Job, bool]:
    """Insert the row and its first event, or attach the request to the row that is there."""
    at = now(session)
    tenant = upsert_insert(session, Tenant).values(name=values["tenant"], created_at=at)
    session.execute(tenant.on_conflict_do_nothing(index_elements=["name"]))
    row = upsert_insert(session, Job).values(**{**_NEW, "created_at": at, "updated_at": at, **values})
    new = session.scalar(row.on_conflict_do_nothing(index_elements=["id"]).returning(Job.id))
    job = session.get(Job, values["id"], populate_existing=True)
    if job is None:  # the session's scope hides it
        raise SettingsError(
            f"the id {values['id']} cannot be used.", hint="Choose another id, or leave it out: celora makes one."
        )
    if new is not None:
        record_event(session, job.id, job.attempt, level, kind, message)
    elif values["request"] is not None:
        job = _attach(session, job, values["request"])
    return job, new is not None


def _attach(session: Session, job: Job, request: JsonObject) -> Job:
    """Give a row the caller's request if it has none; queue the announcement of its end if it has ended."""
    taken = lock_if(session, job.id, Job.request.is_(None))
    if taken is None:
        return job
    taken.request, taken.expires_at = request, expiry_of(request)
    if taken.status.final:
        queue_announcement(session, taken.id)
    session.flush()
    return taken


def _seed(job_id: str) -> int:
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:4], "big") >> 1
