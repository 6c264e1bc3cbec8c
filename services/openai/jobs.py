"""Reads the jobs of a tenant with what OpenAI's form shows of them, and changes them: cancel, pause, resume."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from ...errors import RequestError
from ...models.columns import JobError, error_of
from ...models.database import get_database
from ...models.openai import job_requests
from ...models.openai.model_ids import model_id, name_of
from ...models.scope.scope import Scope
from ...models.states import Status
from ...models.tables import File, Job, JobRequest
from ...models.tables.types import JsonObject
from ...models.views import JobView
from .. import jobs
from ..tenants.job_views import job_views
from .result_file import result_id

DATA_CODES = frozenset({"bad_data", "data_limit"})


@dataclass(frozen=True, kw_only=True)
class Found:
    """A job with the request behind it.

    Attributes:
        view: The job itself.
        spec: Its spec.
        resolved: The recipe that training chose; None before training has begun.
        tokens: Tokens that training went through; None before its end.
        model: The model as it was asked for.
        model_id: The id of the trained model, given when the job completes.
        training_file: The id of the training file, or the dataset of a job that came another way.
        validation_file: The same of the held-out rows; None without them.
        asked: The hyperparameters as they were asked for.
        result_files: The ids of the files of results.
        bad_file: The parameter that names the file with the bad rows, of a job that failed on its data.
    """

    view: JobView
    spec: JsonObject
    resolved: JsonObject | None
    tokens: int | None
    model: str
    model_id: str
    training_file: str
    validation_file: str | None
    asked: JsonObject
    result_files: list[str]
    bad_file: str | None

    @property
    def failure(self) -> JobError:
        """The reason why the job failed."""
        return self.view.failure


def find(tenant: str, job_id: str) -> Found:
    """Find a tenant's job by its whole id.

    Raises:
        RequestError: There is no such job (404).
    """
    with get_database().session(Scope.of(tenant)) as session:
        return _found(session, [job_requests.find_job(session, tenant, job_id)])[0]


def page(
    tenant: str, *, after: str | None, limit: int, labels: Mapping[str, str] | None, status: Status | None = None
) -> tuple[list[Found], bool]:
    """List a tenant's jobs, the newest first; the second value is True if more follow.

    Args:
        tenant: The owner.
        after: The id of the last job of the page before.
        limit: The length of the page.
        labels: Labels that the jobs must have; None for jobs without labels.
        status: The status that they must have.

    Raises:
        RequestError: ``after`` is no job of this tenant.
    """
    with get_database().session(Scope.of(tenant)) as session:
        rows, more = job_requests.page(session, tenant, after=after, limit=limit, labels=labels, status=status)
        return _found(session, rows), more


def cancel(tenant: str, job_id: str) -> Found:
    """Cancel a job.

    Raises:
        RequestError: There is no such job (404), or it has ended (409).
    """
    found = find(tenant, job_id)
    _refuse_ended(
        jobs.cancel(job_id, scope=Scope.of(tenant)) == "final" and found.view.status is not Status.CANCELLED,
        "cancelled",
    )
    return find(tenant, job_id)


def pause(tenant: str, job_id: str) -> Found:
    """Pause a job; a running one checkpoints first.

    Raises:
        RequestError: There is no such job (404), or it has ended (409).
    """
    find(tenant, job_id)
    _refuse_ended(jobs.pause(job_id, scope=Scope.of(tenant)) in ("final", "cancelling"), "paused")
    return find(tenant, job_id)


def resume(tenant: str, job_id: str) -> Found:
    """Resume a paused job; one that is not paused stays as it is.

    Raises:
        RequestError: There is no such job (404), or it has ended (409).
    """
    found = find(tenant, job_id)
    _refuse_ended(found.view.ended, "resumed")
    jobs.resume(job_id, scope=Scope.of(tenant))
    return find(tenant, job_id)


def _refuse_ended(refused: bool, verb: str) -> None:  # noqa: FBT001  (the condition of the refusal)
    if refused:
        raise RequestError(
            f"the job has ended, or is ending: it cannot be {verb}. GET shows its state.",
            reason="invalid_state",
            status=409,
            headers={"x-should-retry": "false"},
        )


def _found(session: Session, rows: list[Job]) -> list[Found]:
    requests = job_requests.of_jobs(session, [job.id for job in rows])
    results = {result_id(job.id): job.id for job in rows if job.status is Status.COMPLETED}
    files = select(File.id).where(File.id.in_(results), File.deleted_at.is_(None))
    made = {results[file_id]: file_id for file_id in session.scalars(files)} if results else {}
    views = job_views(session, rows)
    return [_one(session, job, views[job.id], requests.get(job.id), made.get(job.id)) for job in rows]


def _one(session: Session, job: Job, view: JobView, asked: JobRequest | None, result: str | None) -> Found:
    base, held_out = str(job.spec.get("base_model", "")), job.spec.get("eval_dataset")
    named = asked.named if asked else str((job.base or {}).get("name") or base)
    tokens = (job.result or {}).get("tokens") if job.status is Status.COMPLETED else None
    return Found(
        view=view,
        spec=job.spec,
        resolved=job.resolved,
        tokens=tokens if isinstance(tokens, int) else None,
        model=asked.model if asked else name_of(base),
        model_id=model_id(named, job.tenant, str(job.spec.get("suffix") or ""), job.id),
        training_file=asked.training_file if asked else _shown(job.spec.get("dataset")),
        validation_file=asked.validation_file if asked else (_shown(held_out) if held_out else None),
        asked=asked.hyperparameters if asked else {},
        result_files=[result] if result else [],
        bad_file=_bad_file(session, job, asked),
    )


def _shown(source: object) -> str:
    """Return the last part of a dataset's place; folders of the server are nobody's business."""
    given = next(iter(cast("dict[str, str]", source).values()), "") if isinstance(source, dict) else str(source)
    return given.rstrip("/").rsplit("/", 1)[-1]


def _bad_file(session: Session, job: Job, asked: JobRequest | None) -> str | None:
    """Return which file has the bad rows: the validation file where its own check failed and the other's did not."""
    if job.status is not Status.FAILED or error_of(job).code not in DATA_CODES:
        return None
    if asked is None or asked.validation_file is None:
        return "training_file"
    states = select(File.id, File.status).where(File.id.in_([asked.training_file, asked.validation_file]))
    known = dict(session.execute(states).all())
    bad = known.get(asked.validation_file) == "error" and known.get(asked.training_file) != "error"
    return "validation_file" if bad else "training_file"
