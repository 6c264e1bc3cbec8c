"""Defines the notices, and queues their deliveries in the transaction of their cause.

A notice without a receiver costs one query and writes nothing.
"""

import secrets
from enum import StrEnum
from typing import Self

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from ..database import now
from ..tables import Delivery, Receiver
from ..tables.types import JsonObject

LONGEST_SUBJECT = 64


class Notice(StrEnum):
    """An event of which somebody may be notified; ``meaning`` is the sentence that people are shown."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        """Make a member from its value and the sentence beside it."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    DONE = "done", "a job is completed"
    FAILED = "failed", "a job failed"
    CANCELLED = "cancelled", "a job was cancelled"
    WAITING = "waiting", "a job waits for longer than the receiver's time"
    PAUSED = "paused", "a job reached its budget or a limit of its tenant, and pauses"
    CHAMPION = "champion", "a champion's name points to another adapter"
    MISSED = "missed", "a schedule missed a run"
    OFF = "off", "a receiver failed for days and was switched off"


def new_event_id() -> str:
    """Make the id of an event, by which a receiver knows a repeated delivery."""
    return f"evt_{secrets.token_hex(16)}"


def queue_notice(
    session: Session,
    notice: Notice,
    tenant: str,
    subject: str,
    *,
    job_id: str | None = None,
    facts: JsonObject | None = None,
) -> int:
    """Queue a delivery of a notice to each receiver of the tenant that asks for it, and return their number.

    Args:
        session: The session of the cause.
        notice: The event.
        tenant: The tenant that it concerns.
        subject: The job, champion or schedule; deliveries about one subject stay in order.
        job_id: The job, where it is about one.
        facts: Facts for the message.
    """
    about = or_(Receiver.job_id.is_(None), Receiver.job_id == job_id) if job_id else Receiver.job_id.is_(None)
    active = select(Receiver).where(Receiver.tenant == tenant, Receiver.off_at.is_(None), about)
    wanting = [receiver.id for receiver in session.scalars(active.order_by(Receiver.id)) if notice in receiver.notices]
    if not wanting:
        return 0
    event_id = new_event_id()
    for receiver_id in wanting:
        add_delivery(session, receiver_id, event_id, notice, subject, job_id=job_id, facts=facts)
    session.flush()
    return len(wanting)


def add_delivery(
    session: Session,
    receiver_id: str,
    event_id: str,
    notice: Notice,
    subject: str,
    *,
    job_id: str | None = None,
    facts: JsonObject | None = None,
) -> None:
    """Add a delivery that is due at once."""
    at = now(session)
    session.add(
        Delivery(
            receiver_id=receiver_id,
            event_id=event_id,
            notice=notice.value,
            subject=subject[:LONGEST_SUBJECT],
            job_id=job_id,
            facts=facts or {},
            created_at=at,
            since=at,
            next_at=at,
            tries=[],
        )
    )
