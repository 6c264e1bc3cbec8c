"""Reads the events of a job in the words that scripts parse, the newest first, with the measurements merged in.

celora's own events name workers, folders and operators. A client reads the sentences of this module instead, and the
kinds that have none are left out.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, literal, or_, select, tuple_
from sqlalchemy.orm import Session

from ...errors import RequestError
from ...models.columns import error_of
from ...models.database import get_database
from ...models.openai import job_requests
from ...models.openai.model_ids import model_id, name_of
from ...models.scope.scope import Scope
from ...models.tables import Event, Job, JobRequest, MetricPoint
from ...models.tables.types import JsonObject, UtcDateTime
from ..tenants import words
from ..tenants.job_views import machines_of

Level = Literal["info", "warn", "error"]
LARGEST = 2**31 - 1
"""The largest id of an event, and the largest step: PostgreSQL's integer."""
EVENT_AGE = tuple_(Event.at, Event.id)
POINT_AGE = tuple_(MetricPoint.at, MetricPoint.attempt, MetricPoint.step)
"""The order of the two tables, each that of an index."""
CURSOR = re.compile(r"ftevent-(?:e(?P<event>\d{1,10})|m(?P<attempt>\d{1,10})\.(?P<step>\d{1,10}))")


@dataclass(frozen=True, kw_only=True)
class EventView:
    """An event as its job's owner sees it; ``data`` holds the measurements of a step, or further facts."""

    id: str
    at: datetime
    level: Level
    message: str
    kind: Literal["message", "metrics"]
    data: JsonObject


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The facts of a job that its sentences name."""

    id: str
    model: str
    training_file: str
    steps: int | None
    failure: str


Sentence = Callable[[_Job, JsonObject], str | None]


def _stage(preparing: str, training: str, publishing: str) -> Sentence:
    def sentence(job: _Job, data: JsonObject) -> str | None:
        words = {"prepare": preparing, "train": training, "publish": publishing}.get(str(data.get("stage")))
        return words.format(job=job) if words else None

    return sentence


def _always(words: str) -> Sentence:
    return lambda job, data: words.format(job=job, data=data)


SENTENCES: dict[str, tuple[Level, Sentence]] = {
    "submitted": ("info", _always("Created fine-tuning job: {job.id}")),
    "stage_started": ("info", _stage("Validating training file: {job.training_file}", "Fine-tuning job started", "")),
    "stage_finished": (
        "info",
        _stage(
            "Files validated, moving job to queued state",
            "Training finished, evaluating the model",
            "New fine-tuned model created: {job.model}",
        ),
    ),
    "checkpoint": ("info", _always("Checkpoint saved at step {data[step]}")),
    "paused": ("info", _always("The job is paused")),
    "unpaused": ("info", _always("The job goes on")),
    "pause_requested": ("info", _always("A pause was asked for")),
    "cancel_requested": ("info", _always("A cancel was asked for")),
    "retrying": ("warn", _always("A step of the job failed and is tried again")),
    "worker_lost": ("warn", _always("A machine was lost; the job goes on from its last checkpoint")),
    "completed": ("info", _always("The job has successfully completed")),
    "failed": ("error", _always("The job failed: {job.failure}")),
    "cancelled": ("info", _always("The job was cancelled")),
}
"""The kinds of celora's events that a client sees, each with its level and its sentence."""


def page(tenant: str, job_id: str, *, after: str | None, limit: int) -> tuple[list[EventView], bool]:
    """List a job's events, the newest first; the second value is True if more follow.

    Both tables are read by time from the cursor on, and messages only as far back as the measurements of the page
    reach, so that a page costs the same wherever it lies in a long history.

    Raises:
        RequestError: There is no such job (404), or ``after`` is no event of it.
    """
    with get_database().session(Scope.of(tenant)) as session:
        job = job_requests.find_job(session, tenant, job_id)
        facts = _facts(session, job)
        place = None if after is None else _place(session, job_id, after)
        measured = _metrics(session, facts, place, limit + 1)
        since = measured[limit].at if len(measured) > limit else None
        found = [*_messages(session, facts, place, since, limit + 1), *measured]
    found.sort(key=_order, reverse=True)
    return found[:limit], len(found) > limit


def _facts(session: Session, job: Job) -> _Job:
    error, names = error_of(job), machines_of(session, [job.id]).get(job.id, frozenset())
    asked = session.get(JobRequest, job.id)
    named = asked.named if asked else str((job.base or {}).get("name") or name_of(str(job.spec.get("base_model", ""))))
    return _Job(
        id=job.id,
        model=model_id(named, job.tenant, str(job.spec.get("suffix") or ""), job.id),
        training_file=asked.training_file if asked else "the dataset",
        steps=job.steps,
        failure=words.failure(error.code, error.message, "", names).message,
    )


def _place(session: Session, job_id: str, cursor: str) -> EventView:
    """Find the event of a cursor."""
    parts = CURSOR.fullmatch(cursor)
    refusal = RequestError("after is no event of this job.", reason="invalid_cursor", param="after")
    if parts is None or any(int(number) > LARGEST for number in parts.groups("0")):
        raise refusal
    if parts["event"]:
        wanted = select(Event.at).where(Event.job_id == job_id, Event.id == int(parts["event"]))
    else:
        of_step = MetricPoint.attempt == int(parts["attempt"]), MetricPoint.step == int(parts["step"])
        wanted = select(MetricPoint.at).where(MetricPoint.job_id == job_id, *of_step)
    at = session.scalar(wanted)
    if at is None:
        raise refusal
    return EventView(id=cursor, at=at, level="info", message="", kind="message", data={})


def _order(event: EventView) -> tuple[Any, ...]:
    """Return the place of an event: by time, then messages after measurements, then by their own numbers."""
    parts = CURSOR.fullmatch(event.id)
    assert parts is not None  # noqa: S101  (made here)
    if parts["event"]:
        return event.at, 1, int(parts["event"]), 0
    return event.at, 0, int(parts["attempt"]), int(parts["step"])


def _messages(
    session: Session, job: _Job, place: EventView | None, since: datetime | None, limit: int
) -> list[EventView]:
    """Read messages until there are enough; an event of a shown kind may have no sentence of its own."""
    columns = (Event.id, Event.at, Event.kind, Event.data)
    wanted = select(*columns).where(Event.job_id == job.id, Event.kind.in_(list(SENTENCES)))
    wanted = wanted.order_by(Event.at.desc(), Event.id.desc()).limit(limit)
    wanted = wanted if since is None else wanted.where(Event.at >= since)
    before, found, more = None if place is None else _messages_before(place), list[EventView](), True
    while more and len(found) < limit:
        rows = session.execute(wanted if before is None else wanted.where(before)).all()
        for event_id, at, kind, data in rows:
            level, sentence = SENTENCES[kind]
            if said := sentence(job, data or {}):
                found.append(_message(event_id, at, level, said))
        more = len(rows) == limit
        before = _age(rows[-1].at, rows[-1].id) > EVENT_AGE if more else None
    return found[:limit]


def _messages_before(place: EventView) -> ColumnElement[bool]:
    at, kind, number, _ = _order(place)
    return _age(at, number) > EVENT_AGE if kind else Event.at < at


def _message(event_id: int, at: datetime, level: Level, words: str) -> EventView:
    return EventView(id=f"ftevent-e{event_id}", at=at, level=level, message=words, kind="message", data={})


def _metrics(session: Session, job: _Job, place: EventView | None, limit: int) -> list[EventView]:
    measured = or_(MetricPoint.train_loss.is_not(None), MetricPoint.eval_loss.is_not(None))
    wanted = select(MetricPoint).where(MetricPoint.job_id == job.id, measured)
    if place is not None:
        wanted = wanted.where(_metrics_before(place))
    newest = wanted.order_by(MetricPoint.at.desc(), MetricPoint.attempt.desc(), MetricPoint.step.desc())
    return [_measurement(job, point) for point in session.scalars(newest.limit(limit))]


def _metrics_before(place: EventView) -> ColumnElement[bool]:
    at, kind, attempt, step = _order(place)
    return MetricPoint.at <= at if kind else _age(at, attempt, step) > POINT_AGE


def _age(at: datetime, *numbers: int) -> ColumnElement[Any]:
    """Return the place of a row among the rows of its table, as the index by time orders them."""
    return tuple_(literal(at, UtcDateTime()), *numbers)


def _measurement(job: _Job, point: MetricPoint) -> EventView:
    losses = {"training loss": point.train_loss, "validation loss": point.eval_loss}
    words = ", ".join(f"{name}={value:.2f}" for name, value in losses.items() if value is not None)
    data = {
        "step": point.step,
        "total_steps": job.steps,
        "train_loss": point.train_loss,
        "train_mean_token_accuracy": point.train_accuracy,
        "valid_loss": point.eval_loss,
        "valid_mean_token_accuracy": point.eval_accuracy,
        "full_valid_loss": point.eval_loss,
        "full_valid_mean_token_accuracy": point.eval_accuracy,
    }
    return EventView(
        id=f"ftevent-m{point.attempt}.{point.step}",
        at=point.at,
        level="info",
        message=f"Step {point.step}/{job.steps or point.step}: {words}",
        kind="metrics",
        data={name: value for name, value in data.items() if value is not None},
    )
