"""Changes how an unfinished job is queued: its priority, class, GPU type, budget and labels."""

from sqlalchemy.orm import Session

from ...errors import SettingsError
from ...models import queries
from ...models.database import get_database
from ...models.jobs import requests
from ...models.jobs.requests import JobChanges
from ...models.scope.scope import Scope
from ...models.tables import Job
from ...models.tables.types import JsonObject
from ...models.tenants.audit import current_actor, record_audit
from ...models.tenants.limits import LEAST_PRIORITY, limits_of
from ...settings.gpus import gpu_catalogue
from ...settings.settings import get_settings
from ...workers.messages import request_tick
from ..tenants.admission import check_class, mark_budget
from ..tenants.prospects import mark_labels

__all__ = ["JobChanges", "change_job"]


def change_job(job_id: str, changes: JobChanges, *, scope: Scope = Scope.everything) -> JsonObject:
    """Changes a job that has not ended; a running one keeps its GPU type and labels.

    Args:
        job_id: The job.
        changes: The new values; None leaves one as it is.
        scope: The caller's.

    Returns:
        The changed fields of the job's spec.

    Raises:
        NotFoundError: There is no such job.
        SettingsError: A value is not possible, above the tenant's limits, or none that the job can take now.
    """
    if not changes.given():
        raise SettingsError("nothing is to change.", hint=f"Name it: celora set {job_id} --priority 5")
    with get_database().transaction(scope) as session:
        job = queries.get_job(session, job_id)
        _check(session, job, changes)
        before, after = requests.change(session, job.id, changes)
        if changes.labels is not None or changes.gpu is not None:
            mark_labels(session, job.id)
        if changes.budget is not None:
            mark_budget(session, get_settings(), job.id)
        record_audit(session, current_actor(), "job.set", job.id, before, after, tenant=job.tenant)
    request_tick()
    return after


def _check(session: Session, job: Job, changes: JobChanges) -> None:
    limits = limits_of(session, job.tenant)
    if changes.priority is not None and not LEAST_PRIORITY <= changes.priority <= limits.max_priority:
        raise SettingsError(
            f"priority: {changes.priority} is out of range for tenant {job.tenant}.",
            hint=f"Use a number from {LEAST_PRIORITY} to {limits.max_priority}.",
        )
    if changes.job_class is not None:
        check_class(changes.job_class, limits, job.tenant)
    types = gpu_catalogue(get_settings().gpus)
    if changes.gpu not in (None, "auto", *types):
        raise SettingsError(
            f"gpu: there is no GPU type {str(changes.gpu)[:40]!r}.", hint=f"Use auto or one of {', '.join(types)}."
        )
