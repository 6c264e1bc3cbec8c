"""Shows a tenant its jobs: the view of a job, its events and its receipt, without the names that are the operator's.

The rows are read in the tenant's own session. Every text passes ``words``; the reason why a job waits is worded anew
(``wait_words``), and the fields that name a place or a machine are empty.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from ...models.columns import JobError, error_of
from ...models.database import now
from ...models.queue.lane_reasons import waiting_lanes
from ...models.states import Status
from ...models.tables import Attempt, Event, Job
from ...models.tables.types import JsonObject
from ...models.views import JobView, view_of
from . import words
from .wait_words import wait_words

ROWS_OF_THE_TENANT = frozenset({"sample", "samples", "labels"})
"""Parts of a receipt that hold text of the tenant's own rows, as it is."""
EVENT_FACTS = frozenset({"step", "steps", "planned_steps", "stage", "seconds", "eval_loss", "parent", "resume_step"})
"""Facts of an event that a tenant reads."""
OWN = frozenset({
    "submitted", "scheduled", "continues", "retries", "resumed", "started_again", "training_started",
    "unquantized_layers", "first_step", "eval", "sample", "note", "not_exact", "evaluation_waits", "checkpoint",
    "stage_finished", "cancel_requested", "pause_requested", "paused", "unpaused", "budget_reached", "limit_reached",
    "completed", "cancelled", "expired", "evaluated_again", "measured_as_served", "promoted", "promoted_by_hand",
    "rolled_back", "kept", "dethroned",
})  # fmt: skip
"""Kinds of events that say their own words to the tenant."""
EVENTS: Mapping[str, str] = {
    "queued": "the next stage is about to start",
    "stage_started": "a stage started",
    "released": "the job gave its device back and waits for another one",
    "handed_back": "the job gave its device back and waits for another one",
    "resent": "the next stage is about to start",
    "retrying": "a stage failed and is tried again",
    "worker_lost": "the machine that worked on the job was lost; the stage starts again",
    "adjusted": "the device's memory was too small; the stage runs again with smaller batches",
    "checkpoint_missed": "a checkpoint could not be kept; training goes on",
    "checkpoint_rejected": "a checkpoint could not be used and is skipped",
}
"""The sentences of events whose own words are the operator's. Kinds that stand in neither place are left out."""


FAILED = ("failed", "rejected")
"""Kinds of events that say why the job failed."""
TOLD = (*sorted(OWN), *EVENTS, *FAILED)
"""Kinds of events that a tenant reads."""


@dataclass(frozen=True, kw_only=True)
class EventLine:
    """An event as the job's tenant reads it."""

    id: int
    attempt: int
    at: datetime
    level: str
    kind: str
    message: str
    data: JsonObject


def job_views(session: Session, jobs: Sequence[Job]) -> dict[str, JobView]:
    """Return the views of a tenant's jobs by id."""
    at = now(session)
    waits = {job.id: wait_words(job, lane, at) for job, lane in waiting_lanes(session, jobs)}
    machines = machines_of(session, [job.id for job in jobs if job.status is Status.FAILED or job.warnings])
    return {job.id: _view(job, waits, machines.get(job.id, frozenset())) for job in jobs}


def job_events(session: Session, job_id: str, *, after_id: int = 0, limit: int = 100) -> list[EventLine]:
    """List the events of a tenant's job after the event of that id, in order."""
    wanted = select(Event).where(Event.job_id == job_id, Event.id > after_id, Event.kind.in_(TOLD))
    return event_lines(session, session.scalars(wanted.order_by(Event.id).limit(limit)).all())


def event_lines(session: Session, rows: Sequence[Event]) -> list[EventLine]:
    """Word events of some jobs, each for the tenant of its job; their kinds are those of ``TOLD``."""
    names = machines_of(session, {row.job_id for row in rows})
    failed = _failures(session, {row.job_id for row in rows if row.kind in FAILED}, names)
    return [_line(row, failed.get(row.job_id, ""), names.get(row.job_id, frozenset())) for row in rows]


def _failures(session: Session, job_ids: Collection[str], names: Mapping[str, frozenset[str]]) -> dict[str, str]:
    if not job_ids:
        return {}
    failed = session.execute(select(Job.id, Job.error).where(Job.id.in_(list(job_ids))))
    errors = {job_id: JobError.read(error) or JobError() for job_id, error in failed}
    return {
        job_id: words.failure(error.code, error.message, error.hint, names.get(job_id, frozenset())).message
        for job_id, error in errors.items()
    }


def _line(row: Event, failed: str, names: Collection[str]) -> EventLine:
    return EventLine(
        id=row.id,
        attempt=row.attempt,
        at=row.at,
        level=row.level,
        kind=row.kind,
        message=failed if row.kind in FAILED else EVENTS.get(row.kind) or words.text(row.message, names),
        data=words.data({name: value for name, value in (row.data or {}).items() if name in EVENT_FACTS}, names),
    )


def job_receipt(session: Session, job: Job) -> JsonObject | None:
    """Return the receipt of a tenant's job; None before its data is prepared."""
    receipt: JsonObject | None = (job.prepared or {}).get("receipt")
    names = machines_of(session, [job.id]).get(job.id, frozenset())
    return None if receipt is None else without_places(receipt, names)


def machines_of(session: Session, job_ids: Collection[str]) -> dict[str, frozenset[str]]:
    """Return the names of the workers and machines that have worked on some jobs, by the job's id."""
    if not job_ids:
        return {}
    found: dict[str, set[str]] = {}
    pairs = select(Attempt.job_id, Attempt.worker_id).where(Attempt.job_id.in_(list(job_ids)))
    for job_id, worker in session.execute(pairs):
        found.setdefault(job_id, set()).update({worker, worker.partition("@")[2]})
    return {job_id: frozenset(names - {""}) for job_id, names in found.items()}


def _view(job: Job, waits: dict[str, str], names: Collection[str]) -> JobView:
    view = view_of(job, waits)
    return replace(
        view,
        error=_failure(job, names) if job.error is not None else None,
        warnings=[words.text(each, names) for each in job.warnings],
        progress=words.data(view.progress, names),
        phase=words.data(view.phase, names),
        queue=None,
        worker=None,
        log_uri=None,
        adapter=None,
    )


def _failure(job: Job, names: Collection[str]) -> JsonObject:
    error = error_of(job)
    said = words.failure(error.code, error.message, error.hint, names)
    tail = words.text(error.log_tail, names) if error.code in words.TENANTS else ""
    return {"code": said.code, "message": said.message, "hint": said.hint, "stage": error.stage, "log_tail": tail}


def without_places(value: Any, names: Collection[str]) -> Any:
    """Word the texts of a receipt or an evaluation, at any depth, except the rows of the tenant."""
    if not isinstance(value, Mapping):
        return words.data(value, names)
    parts = cast("Mapping[str, Any]", value)
    return {name: part if name in ROWS_OF_THE_TENANT else without_places(part, names) for name, part in parts.items()}
