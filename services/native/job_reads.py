"""Reads the jobs of a tenant for celora's own routes: summary, queue, receipt, estimate, events, the end of the log."""

from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from ...errors import RequestError
from ...models import queries
from ...models.database import get_database
from ...models.openai import job_requests
from ...models.scope.scope import Scope
from ...models.states import LIVE, Stage, Status
from ...models.tables import Adapter, Job
from ...models.tables.types import JsonObject
from ...settings.redaction import redactor
from ...settings.settings import Settings
from ...storage.artifacts import Artifacts
from ..queue.explanations import Entry
from ..queue.listing import list_queue
from ..tenants import words
from ..tenants.job_views import EventLine, job_events, job_receipt, job_views, machines_of, without_places

PLACES = frozenset({"queue", "worker", "log_uri", "adapter"})
"""Fields of a view that are the operator's, and empty for a tenant."""
DETAILS = (
    "stage_seconds", "trainable_parameters", "trainable_share", "continue_from", "prepared", "checkpoint_step",
    "preference",
)  # fmt: skip
"""Fields of a job's own page beside those of its view, as the commands show them."""
TAIL_BYTES = 64 << 10


def summary(tenant: str, job_id: str) -> JsonObject:
    """Return everything that a tenant reads about one of its jobs.

    Raises:
        RequestError: There is no such job (404).
    """
    with get_database().session(Scope.of(tenant)) as session:
        job = job_requests.find_job(session, tenant, job_id)
        names = machines_of(session, [job.id]).get(job.id, frozenset())
        facts = {"summary": words.data(job.summary, names), "settings": words.data(job.resolved, names)}
        facts |= {"evaluation": _evaluation(job, names), "model": _model(session, job.id)}
        detail = queries.job_detail(session, job.id)
        facts |= {name: words.data(getattr(detail, name), names) for name in DETAILS}
        return {**_shown(session, [job])[0], **facts, "datasets": detail.datasets}


def listed(tenant: str, *, status: Status | None, after: str | None, limit: int) -> tuple[list[JsonObject], bool]:
    """List a tenant's jobs, the newest first; the second value is True if more follow.

    Raises:
        RequestError: ``after`` is no job of this tenant.
    """
    with get_database().session(Scope.of(tenant)) as session:
        rows, more = job_requests.page(session, tenant, after=after, limit=limit, labels={}, status=status)
        return _shown(session, rows), more


def queue(tenant: str, limit: int) -> list[JsonObject]:
    """List a tenant's unfinished jobs, the oldest first, each with the reason why it waits and its ``place``.

    A place has the position in the queue, the number of jobs ahead (the tenant's own, and all others as one), and the
    earliest and the latest time at which the job is expected to start; a job that waits for no slot has none.
    """
    scope = Scope.of(tenant)
    places = {entry.id: _place(entry) for entry in list_queue(limit=limit, scope=scope) if entry.position is not None}
    with get_database().session(scope) as session:
        mine = select(Job).options(*queries.LARGE).where(Job.tenant == tenant, Job.status.in_(LIVE))
        rows = _shown(session, list(session.scalars(mine.order_by(Job.created_at, Job.id).limit(limit))))
    return [{**row, "place": places.get(str(row["id"]))} for row in rows]


def receipt(tenant: str, job_id: str) -> JsonObject:
    """Return the receipt of a job's data.

    Raises:
        RequestError: There is no such job, or its data is not prepared yet (404).
    """
    with get_database().session(Scope.of(tenant)) as session:
        found = job_receipt(session, job_requests.find_job(session, tenant, job_id))
    if found is None:
        raise RequestError("the data of the job is not prepared yet.", reason="not_ready", status=404)
    return found


def estimate(tenant: str, job_id: str) -> JsonObject:
    """Return the estimate of a job's memory, time and cost.

    Raises:
        RequestError: There is no such job, or its data is not prepared yet (404).
    """
    found = receipt(tenant, job_id).get("estimate")
    if not isinstance(found, dict):
        raise RequestError("the job has no estimate.", reason="not_ready", status=404)
    return found  # pyright: ignore[reportUnknownVariableType]


def events(tenant: str, job_id: str, *, after_id: int, limit: int) -> tuple[list[EventLine], bool]:
    """List a job's events after the event of that id, in order; the second value is True once the job has ended.

    Raises:
        RequestError: There is no such job (404).
    """
    with get_database().session(Scope.of(tenant)) as session:
        ended = job_requests.find_job(session, tenant, job_id).status not in LIVE
        return job_events(session, job_id, after_id=after_id, limit=limit), ended


def log_tail(tenant: str, job_id: str, settings: Settings, most_bytes: int = TAIL_BYTES) -> str:
    """Return the end of what a job's processes wrote last, without secrets and without names that are the operator's.

    Raises:
        RequestError: There is no such job, or it has written nothing yet (404).
    """
    with get_database().session(Scope.of(tenant)) as session:
        job = job_requests.find_job(session, tenant, job_id)
        attempt, names = int(job.attempt), machines_of(session, [job.id]).get(job.id, frozenset())
    artifacts = Artifacts(settings.artifacts)
    for number in range(attempt, 0, -1):
        for stage in reversed(Stage):
            uri = artifacts.uri("jobs", job_id, "logs", f"{number:03d}-{stage}.log")
            if artifacts.exists(uri):
                tail = _tail(artifacts, uri, most_bytes)
                return "\n".join(words.text(redactor().text(line), names) for line in tail.split("\n"))
    raise RequestError("the job has written nothing yet.", reason="not_ready", status=404)


def _evaluation(job: Job, names: Collection[str]) -> JsonObject | None:
    """Return what an evaluation measured, without the place of its rows; the rows' own texts stay as they are."""
    if job.evaluation is None:
        return None
    return without_places({name: value for name, value in job.evaluation.items() if name != "uri"}, names)


def _model(session: Session, job_id: str) -> str | None:
    """Return the id under which a job's adapter is a model; None without an adapter."""
    adapter = session.get(Adapter, job_id)
    return adapter.model_id if adapter is not None and adapter.deleted_at is None else None


def _place(entry: Entry) -> JsonObject:
    return {
        "position": entry.position,
        "ahead": dict(entry.ahead),
        "earliest_at": entry.earliest_at,
        "latest_at": entry.latest_at,
    }


def _tail(artifacts: Artifacts, uri: str, most_bytes: int) -> str:
    """Read the end of a log from the beginning of a line on; a progress bar leaves its last state alone."""
    kept, cut = b"", False
    for part in artifacts.read_parts(uri):
        cut = cut or len(kept) + len(part) > most_bytes
        kept = (kept + part)[-most_bytes:]
    text = kept.decode("utf-8", "replace")
    text = text.partition("\n")[2] if cut else text
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def _shown(session: Session, jobs: Sequence[Job]) -> list[JsonObject]:
    views = job_views(session, jobs)
    return [{name: value for name, value in views[job.id].plain().items() if name not in PLACES} for job in jobs]
