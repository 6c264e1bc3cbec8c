"""Announces the end of a job to its caller (the result, callbacks, chain and chord) and to Flower.

The job's id is the task id of the caller's ``finetune`` message. That message ended with Ignore, so no result is stored
under the id before the announcement. The caller's own request was saved with the job; with a Context rebuilt from it,
Celery's backend treats the job like a task. An announcement is an outbox row, claimed before it is made, because a
callback that is sent twice runs twice.
"""

import logging
from typing import Any

from celery import signature
from celery.app.task import Context
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from .. import errors
from ..errors import UnavailableError
from ..models.database import Database
from ..models.events import record_event
from ..models.jobs.expiry import EXPIRED
from ..models.jobs.outbox import claim_announcement, mark_announced
from ..models.scope.scope import Scope
from ..models.states import Status
from ..models.tables import Announcement, Job, Worker
from ..settings.failpoints import hit
from ..settings.redaction import redactor
from . import messages
from .celery import app

logger = logging.getLogger(__name__)

CLAIM_S = 30.0
ANNOUNCE_S = 10.0
MOST_TRIES = 5
"""Tries to announce an end whose links can't be called; an unreachable broker alone never ends them."""
REVOKED: dict[str, Any] = {"terminated": True, "signum": None, "expired": False}
"""The fields of Flower's event for a task that a person ended."""


def announce(database: Database, job_id: str, *, within_s: float = ANNOUNCE_S) -> bool:
    """Announce the end of a job, once.

    Args:
        database: The record.
        job_id: A job that ended.
        within_s: Seconds that the caller waits for the broker.

    Returns:
        True if this call announced the end; False where another call does, or the broker cannot be reached (the tick
        tries again).
    """
    with database.transaction(Scope.everything) as session:
        if not claim_announcement(session, job_id, CLAIM_S):
            return False
        job = session.get(Job, job_id)
        assert job is not None  # noqa: S101  (its outbox row refers to it)
        session.expunge(job)
        speaker = _speaker(session)
    hit("announce.claimed")

    def tell() -> None:
        _tell(job, speaker)
        hit("announce.told")
        with database.transaction(Scope.everything) as session:
            mark_announced(session, job_id)

    try:
        return messages.attempt(tell, f"the end of job {job_id}", within_s=within_s)
    except (SQLAlchemyError, UnavailableError):
        raise
    except Exception as error:  # noqa: BLE001  (the callbacks of one caller must not stop the announcements of other jobs)
        _announcement_failed(database, job, error)
        return False


def _announcement_failed(database: Database, job: Job, error: Exception) -> None:
    """Log the fault of an announcement; the last of ``MOST_TRIES`` tries ends them, with an event of the job."""
    why = f"{type(error).__name__}: {str(error)[:200]}"
    logger.warning("job %s: its end can't be announced to its caller (%s)", job.id, why)
    with database.transaction(Scope.everything) as session:
        announcement = session.get(Announcement, job.id)
        if announcement is None or announcement.attempts < MOST_TRIES:
            return
        mark_announced(session, job.id)
        text = f"the caller could not be told of the end, in {announcement.attempts} tries: {why}"
        record_event(session, job.id, job.attempt, "error", "announcement_failed", redactor().text(text), {})


def progress(job_id: str, facts: dict[str, Any]) -> None:
    """Show progress as the state of the caller's result; only ever called after the guarded write to the record."""
    app.backend.store_result(job_id, facts, "PROGRESS")


def cut_short(request: Any, kind: str, **fields: Any) -> None:
    """Send Flower the event of a stage's message that ended as neither success nor failure.

    Celery sends no event for an ``Ignore``.

    Args:
        request: The message's Celery request.
        kind: ``task-revoked`` (the job ended) or ``task-retried`` (the job goes on with another message).
        fields: Further fields of the event.
    """
    hostname = str(request.hostname)
    messages.attempt(lambda: _event(kind, str(request.id), hostname, **fields), f"the end of {request.id}")


def error_of(job: Job) -> errors.CeloraError:
    """Build an exception from the job's error; its text is the one informative line that ``.get()`` raises."""
    error = job.error or {}
    where = f" in {error['stage']}" if error.get("stage") else ""
    text = f"{error.get('code', 'internal')}: job {job.id} failed{where}: {error.get('message', 'no reason recorded')}"
    return errors.of_code(str(error.get("code")))(text, hint=str(error.get("hint", "")))


def _tell(job: Job, speaker: str | None) -> None:
    saved = job.request or {}
    request = Context({"id": job.id, "task": "celora.finetune", "delivery_info": {}, **saved})
    if job.status == Status.COMPLETED:
        _send_callbacks(job, saved)
        app.backend.mark_as_done(job.id, job.summary, request=request)
        _event("task-succeeded", job.id, speaker, runtime=_runtime_s(job), result=f"adapter {job.adapter_uri}")
    elif job.status == Status.FAILED:
        error = error_of(job)
        app.backend.mark_as_failure(job.id, error, request=request)
        told = f"{type(error).__name__}({str(error)!r})"
        _event("task-failed", job.id, speaker, runtime=_runtime_s(job), exception=told, traceback="")
    else:
        expired = bool(saved.get(EXPIRED))
        why = EXPIRED if expired else "cancelled"
        app.backend.mark_as_revoked(job.id, why, request=request)
        _revoke_chain(saved.get("chain") or [], why)
        _event("task-revoked", job.id, speaker, runtime=_runtime_s(job), **{**REVOKED, "expired": expired})


def _send_callbacks(job: Job, saved: dict[str, Any]) -> None:
    """Send each ``link``, then the next step of the caller's chain, as a Celery worker does when a task succeeds."""
    about: dict[str, Any] = {"parent_id": job.id, "root_id": saved.get("root_id") or job.id}
    callbacks: list[dict[str, Any]] = saved.get("callbacks") or []
    for callback in callbacks:
        signature(callback, app=app).apply_async((job.summary,), **about)
    if saved.get("chain"):
        *rest, following = saved["chain"]
        signature(following, app=app).apply_async((job.summary,), chain=rest, **about)


def _revoke_chain(steps: list[dict[str, Any]], why: str) -> None:
    """Mark the chain's steps after a revoked one as revoked, since they never run; Celery leaves them pending."""
    for step in steps:
        options: dict[str, Any] = step.get("options", {})
        later_id = options.get("task_id")
        if later_id:
            later = Context({**options, "id": later_id, "task": step["task"], "group": options.get("group_id")})
            app.backend.mark_as_revoked(later_id, why, request=later)


def _speaker(session: Session) -> str | None:
    """Choose the worker that Flower's event of a job's end names: a control worker, as at the job's beginning.

    Without a name Celery invents one, and Flower lists a worker that does not exist.
    """
    return session.scalar(
        select(Worker.id).where(Worker.kind == "control").order_by(Worker.last_seen_at.desc()).limit(1)
    )


def _runtime_s(job: Job) -> float:
    return (job.finished_at - job.created_at).total_seconds() if job.finished_at else 0.0


def _event(kind: str, task_id: str, hostname: str | None, **fields: Any) -> None:
    with app.events.default_dispatcher(hostname=hostname) as dispatcher:
        dispatcher.send(kind, uuid=task_id, **fields)
