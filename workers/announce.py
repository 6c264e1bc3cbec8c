"""Tells the caller how the job ended: its result, its callbacks, its chain and chord, and Flower.

The job's id is the task id of the caller's ``finetune`` message, which ended with Ignore, so nothing is stored under it
until here. The caller's own request was saved with the job; a Context rebuilt from it makes Celery's backend do for the
job what it does for a task. An announcement is an outbox row, claimed before it is made, because a callback sent twice
runs twice.
"""

import logging
from typing import Any

from celery import signature
from celery.app.task import Context
from sqlalchemy import select
from sqlalchemy.orm import Session

from ..models import transitions
from ..models.database import Database
from ..models.states import Status
from ..models.tables import Job, Worker
from ..settings import errors
from ..settings.failpoints import hit
from . import sending
from .celery import app

logger = logging.getLogger(__name__)

CLAIM_S = 30.0
ANNOUNCE_S = 10.0
REVOKED: dict[str, Any] = {"terminated": True, "signum": None, "expired": False}
"""What Flower wants to know of a task that a person ended."""


def announce(database: Database, job_id: str, *, within_s: float = ANNOUNCE_S) -> bool:
    """Announce the end of a job, once.

    Args:
        database: The record.
        job_id: A job that ended.
        within_s: Seconds that the caller waits for the broker.

    Returns:
        Whether this call did it; False where another one does, or the broker cannot be reached (the tick tries again).
    """
    with database.transaction() as session:
        if not transitions.announce_claim(session, job_id, CLAIM_S):
            return False
        job = session.get(Job, job_id)
        assert job is not None  # noqa: S101  (its outbox row refers to it)
        session.expunge(job)
        speaker = _speaker(session)
    hit("announce.claimed")

    def tell() -> None:
        _tell(job, speaker)
        hit("announce.told")
        with database.transaction() as session:
            transitions.announce_done(session, job_id)

    return sending.attempt(tell, f"the end of job {job_id}", within_s=within_s)


def progress(job_id: str, facts: dict[str, Any]) -> None:
    """Show progress as the state of the caller's result; only ever called after the guarded write to the record."""
    app.backend.store_result(job_id, facts, "PROGRESS")


def cut_short(request: Any, kind: str, **fields: Any) -> None:
    """Tell Flower that a stage's message ended as neither success nor failure; Celery says nothing of an ``Ignore``.

    Args:
        request: The message's Celery request.
        kind: ``task-revoked`` (nothing more comes of it) or ``task-retried`` (the job goes on with another one).
        fields: What else the event says.
    """
    hostname = str(request.hostname)
    sending.attempt(lambda: _event(kind, str(request.id), hostname, **fields), f"the end of {request.id}")


def error_of(job: Job) -> errors.CeloraError:
    """The job's error as an exception whose text is the one informative line that ``.get()`` raises."""
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
        app.backend.mark_as_revoked(job.id, "cancelled", request=request)
        _revoke_chain(saved.get("chain") or [])
        _event("task-revoked", job.id, speaker, runtime=_runtime_s(job), **REVOKED)


def _send_callbacks(job: Job, saved: dict[str, Any]) -> None:
    """What a worker does at a task's success, by hand: each ``link``, then the next step of the caller's chain."""
    about: dict[str, Any] = {"parent_id": job.id, "root_id": saved.get("root_id") or job.id}
    callbacks: list[dict[str, Any]] = saved.get("callbacks") or []
    for callback in callbacks:
        signature(callback, app=app).apply_async((job.summary,), **about)
    if saved.get("chain"):
        *rest, following = saved["chain"]
        signature(following, app=app).apply_async((job.summary,), chain=rest, **about)


def _revoke_chain(steps: list[dict[str, Any]]) -> None:
    """The steps after a revoked one never run; whoever waits for them is told, where Celery leaves them pending."""
    for step in steps:
        options: dict[str, Any] = step.get("options", {})
        later_id = options.get("task_id")
        if later_id:
            later = Context({**options, "id": later_id, "task": step["task"], "group": options.get("group_id")})
            app.backend.mark_as_revoked(later_id, "cancelled", request=later)


def _speaker(session: Session) -> str | None:
    """The worker in whose name Flower hears of a job's end: a control worker, as at its beginning.

    Without a name Celery makes one up, and Flower lists a worker that never was.
    """
    return session.scalar(
        select(Worker.id).where(Worker.kind == "control").order_by(Worker.last_seen_at.desc()).limit(1)
    )


def _runtime_s(job: Job) -> float:
    return (job.finished_at - job.created_at).total_seconds() if job.finished_at else 0.0


def _event(kind: str, task_id: str, hostname: str | None, **fields: Any) -> None:
    with app.events.default_dispatcher(hostname=hostname) as dispatcher:
        dispatcher.send(kind, uuid=task_id, **fields)
