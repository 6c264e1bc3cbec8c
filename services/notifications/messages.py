"""Writes the messages: the event that a webhook gets, and the sentences that people get."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from ...models.columns import error_of
from ...models.notifications.notices import Notice
from ...models.tables import Delivery, Job, Receiver
from ...models.tables.types import JsonObject
from ...settings.secrets import INSTALLATION
from ..tenants import words
from ..tenants.job_views import machines_of

EVENT_TYPES: Mapping[Notice, str] = {
    Notice.DONE: "fine_tuning.job.succeeded",
    Notice.FAILED: "fine_tuning.job.failed",
    Notice.CANCELLED: "fine_tuning.job.cancelled",
}
"""The notices that have a type in OpenAI's contract. A client takes an event of an unknown type for one of another."""
NOTICES = {kind: notice for notice, kind in EVENT_TYPES.items()}
MINUTE_S, HOUR_S = 60, 3600


@dataclass(frozen=True, slots=True)
class Message:
    """A message for people."""

    title: str
    body: str


def event_of(event_id: str, notice: Notice, job_id: str, at: datetime) -> bytes:
    """Write the event of a webhook, in OpenAI's form."""
    event = {
        "id": event_id,
        "object": "event",
        "created_at": int(at.timestamp()),
        "type": EVENT_TYPES[notice],
        "data": {"id": job_id},
    }
    return json.dumps(event, separators=(",", ":")).encode()


def message_of(session: Session, delivery: Delivery, receiver: Receiver) -> Message:
    """Write the message of a delivery for people."""
    notice, facts = Notice(delivery.notice), delivery.facts
    job = session.get(Job, delivery.job_id) if delivery.job_id else None
    if job is None:
        return _OTHERS[notice](delivery.subject, facts)
    name = f"job {job.id}" if receiver.tenant == INSTALLATION else f"job {job.id} of {receiver.tenant}"
    if notice is Notice.DONE:
        return Message(f"{name} is completed", _done(job))
    if notice is Notice.FAILED:
        return Message(f"{name} failed", _failed(session, job))
    if notice is Notice.CANCELLED:
        return Message(f"{name} was cancelled", f"It had reached the stage {job.stage.value}.")
    if notice is Notice.WAITING:
        waits = f"It waits for longer than {duration(float(facts.get('waiting_s') or 0))}."
        return Message(f"{name} still waits", waits)
    return Message(f"{name} pauses", _paused(facts))


def duration(seconds: float) -> str:
    """Write a duration in the unit that suits it."""
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE_S:.0f} min" if seconds < 2 * HOUR_S else f"{seconds / HOUR_S:.1f} h"


def _done(job: Job) -> str:
    took = f"It took {duration((job.finished_at - job.created_at).total_seconds())}." if job.finished_at else ""
    adapter = f"Its adapter is {job.name}." if job.name else ""
    return " ".join(filter(None, [adapter, took]))


def _failed(session: Session, job: Job) -> str:
    """Return cause and remedy; those of the installation's own tenant as they are, a tenant's in its words."""
    error = error_of(job)
    if job.tenant == INSTALLATION:
        cause, remedy = error.message, error.hint
    else:
        said = words.failure(error.code, error.message, error.hint, machines_of(session, [job.id]).get(job.id, ()))
        cause, remedy = said.message, said.hint
    return "\n".join(filter(None, [f"Cause ({error.code}): {cause}", f"What to do: {remedy}" if remedy else ""]))


def _paused(facts: JsonObject) -> str:
    if facts.get("cause") == "budget":
        return f"It has used its budget of {facts.get('budget')}. It goes on when it is given a larger one."
    return "Its tenant has reached the limit of this month. It goes on by itself when there is room again."


def _champion(subject: str, facts: JsonObject) -> Message:
    before = f" Before it, {facts['before']} was." if facts.get("before") else ""
    body = f"Job {facts.get('job_id')} is champion {subject} now: {facts.get('reason')}.{before}"
    return Message(f"champion {subject} changed (version {facts.get('version')})", body)


def _missed(subject: str, facts: JsonObject) -> Message:
    made_up = "One run stands for them." if facts.get("made_up") else "They are not made up for."
    return Message(f"schedule {subject} missed a run", f"{facts.get('missed')}. {made_up}")


def _off(subject: str, facts: JsonObject) -> Message:
    return Message(f"notifications to {facts.get('name')} are switched off", f"{subject}: {facts.get('reason')}.")


def _gone(subject: str, facts: JsonObject) -> Message:  # noqa: ARG001  (the facts were in the job)
    return Message(f"job {subject}", "It was deleted since.")


_OTHERS: Mapping[Notice, Callable[[str, JsonObject], Message]] = {
    **dict.fromkeys(Notice, _gone),
    Notice.CHAMPION: _champion,
    Notice.MISSED: _missed,
    Notice.OFF: _off,
}
