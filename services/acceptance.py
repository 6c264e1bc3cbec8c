"""Accepts jobs: checks the spec, and writes the row together with the part of the caller's request that is answered.

*Accepted* means that the row is committed. A refused message leaves a ``failed`` row, since its caller cannot be
answered in any other way once the message is gone.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from celery.utils.time import maybe_iso8601
from sqlalchemy.orm import Session

from ..errors import CeloraError, SettingsError
from ..models import datasets
from ..models.database import Database, get_database
from ..models.events import record_event
from ..models.jobs import accept as record
from ..models.jobs.expiry import EXPIRES
from ..models.scope.scope import Scope
from ..models.spec import JobSpec, stored_spec
from ..models.states import Status
from ..models.tables import Job
from ..models.tenants.audit import MESSAGE, Actor, current_actor, record_audit
from ..settings.failpoints import hit
from ..settings.redaction import redactor
from ..settings.settings import Settings, get_settings
from ..workers.messages import request_tick
from .callbacks import check_callbacks
from .job_checks import check_id, check_spec, check_tenant, place_datasets
from .tenants.admission import admit
from .tenants.prospects import mark_labels

REQUEST_FIELDS = (
    "id", "args", "callbacks", "errbacks", "chain", "chord", "root_id", "parent_id", "group", "group_index",
    "correlation_id", "reply_to", "origin", "stamps", "stamped_headers",
)  # fmt: skip
"""The part of the caller's Celery request that is kept, so that the caller is answered at the job's end."""
LARGEST_KEPT_CHARS = 100_000
"""Characters of a refused spec, as JSON, above which its values are not kept."""


class CeleryRequest(Protocol):
    """The request of a Celery task, of which ``REQUEST_FIELDS`` are kept as far as it has them."""

    @property
    def id(self) -> str:
        """The id of the message, which becomes the job's."""
        ...


def accept_message(fields: dict[str, Any], request: CeleryRequest) -> None:
    """Accepts the job of a ``finetune`` message, and requests a scheduling round.

    Raises:
        CeloraError: As ``accept``.
    """
    hit("accept.received")
    accept(get_database(), get_settings(), fields, request)
    hit("accept.committed")
    request_tick()


def accept(database: Database, settings: Settings, fields: dict[str, Any], request: CeleryRequest) -> bool:
    """Accepts the job of a ``finetune`` message; a second message with the same id makes no second job.

    Args:
        database: The record.
        settings: The installation's.
        fields: The job spec as it came.
        request: The message's Celery request; the caller's callbacks are kept with the job.

    Returns:
        True if the row is new.

    Raises:
        CeloraError: The spec is refused. A ``failed`` row records why, and the failed message reports it to the caller.
    """
    job_id = check_id(str(request.id))
    kept: dict[str, object] = {name: getattr(request, name, None) for name in REQUEST_FIELDS}
    kept[EXPIRES] = _expires(request)
    with database.transaction(Scope.everything) as session:
        known = session.get(Job, job_id)
        if known is not None:
            check_callbacks(request)
            _take_again(session, known, kept, redelivered=bool(_delivery(request).get("redelivered")))
            return False
    try:
        check_callbacks(request)
        _refuse_priority(request)
        spec = _within_time_limit(check_spec(fields, settings), request)
        with database.transaction(Scope.of(spec.tenant)) as session:
            _, created = write_job(session, settings, job_id, spec, kept)
    except CeloraError as error:
        facts = {"code": error.code, "message": error.message, "hint": error.hint, "stage": "submit", "log_tail": ""}
        with database.transaction(Scope.everything) as session:
            masked, new = redactor().data(facts), not settings.known_tenants_only
            record.reject(session, job_id, _as_kept(fields), masked, None, new_tenant=new)
        raise
    return created


def _take_again(session: Session, job: Job, kept: dict[str, object], *, redelivered: bool) -> None:
    """Accept a further message of a job that the record already has.

    A job without a caller gets the caller of this message. A job that has ended is announced again to whoever sends
    its id again, because the result backend may have dropped the result. A redelivered message is no new call.
    """
    if job.status.final and not redelivered:
        record.announce_again(session, job.id, kept)
    elif job.status is not Status.FAILED:
        record.submit(session, job_id=job.id, spec=stored_spec(job.spec), request=kept)


def _delivery(request: CeleryRequest) -> Mapping[str, object]:
    return getattr(request, "delivery_info", None) or {}


def _refuse_priority(request: CeleryRequest) -> None:
    """Refuse the priority of the message: it would sort the messages of a queue, which a job leaves at once.

    Raises:
        SettingsError: There is one.
    """
    if priority := _delivery(request).get("priority"):
        raise SettingsError(
            f"priority: {priority} is the priority of the message, which says nothing about the job.",
            hint='Set the field of the job: kwargs={…, "priority": 10}; a higher number runs sooner.',
        )


def _expires(request: CeleryRequest) -> str | None:
    """Return the time at which the caller's request expires, ISO 8601 in UTC; None without one."""
    given: object = getattr(request, "expires", None)
    time = maybe_iso8601(given) if isinstance(given, str) else given
    if not isinstance(time, datetime):
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


def _within_time_limit(spec: JobSpec, request: CeleryRequest) -> JobSpec:
    """Return the spec with the caller's ``time_limit`` or ``soft_time_limit`` (the shorter) as each stage's limit."""
    limits_s = [float(limit) for limit in getattr(request, "timelimit", None) or () if limit]
    if not limits_s:
        return spec
    minutes = min([limit / 60 for limit in limits_s] + [spec.stage_time_limit_minutes or math.inf])
    return spec.model_copy(update={"stage_time_limit_minutes": minutes})


def write_job(
    session: Session, settings: Settings, job_id: str, spec: JobSpec, request: Mapping[str, object] | None
) -> tuple[JobSpec, bool]:
    """Writes a job's row within its tenant's limits; names of datasets and of a parent become versions and a job's id.

    Returns:
        The spec as it was written, and True if the row is new.

    Raises:
        NotFoundError, DataError: The spec names a dataset that its tenant does not have, or an unknown tenant where
            the installation refuses those.
        SettingsError: Another tenant has a job of that id; or the priority is above the tenant's ceiling.
        TenantLimitError: The job is beyond a limit of its tenant; nothing was written.
    """
    check_tenant(session, spec.tenant, settings)
    if spec.continue_from or spec.reference:
        from ..models.adapters import lineage  # noqa: PLC0415  (few jobs have a parent, and it loads the protocol)

        spec = lineage.resolve(session, spec)
    placed, versions = place_datasets(session, spec, settings)
    with session.begin_nested():
        _, created = record.submit(
            session, job_id=job_id, spec=placed, request=dict(request) if request is not None else None
        )
        if created:
            datasets.record_use(session, job_id, versions)
            admit(session, settings, job_id)
            mark_labels(session, job_id)
            _audit_submit(session, job_id, placed, by_message=request is not None)
            if placed.continue_from:
                message = f"training goes on from the adapter of {placed.continue_from}"
                record_event(session, job_id, 1, "info", "continues", message, {"parent": placed.continue_from})
    return placed, created


def _audit_submit(session: Session, job_id: str, spec: JobSpec, *, by_message: bool) -> None:
    """Record who submitted a job; whoever sends a message is known only as the user that the message names."""
    actor = Actor(f"{MESSAGE} {spec.user}".rstrip()) if by_message else current_actor()
    after = {"base_model": spec.base_model, "dataset": spec.dataset, "priority": spec.priority, "gpu": spec.gpu}
    record_audit(session, actor, "job.submit", job_id, None, after, tenant=spec.tenant)


def _as_kept(fields: dict[str, Any]) -> dict[str, Any]:
    """Masks the secrets of a refused spec, which may be any JSON; of a huge spec only the names are kept."""
    masked: dict[str, Any] = redactor().data(fields)
    if len(json.dumps(masked, default=str)) <= LARGEST_KEPT_CHARS:
        return masked
    return {str(name)[:200]: "left out: the spec was too large to keep" for name in list(masked)[:100]}
