"""Defines the tables of notifications: who is notified, and each delivery, which is an outbox row and its own log."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from .types import FiniteJson, JsonObject, Table

OPEN = text("next_at IS NOT NULL")
"""The condition of the index that holds open deliveries alone."""


def _job() -> Mapped[str | None]:
    return mapped_column(String(64), ForeignKey("job.id", ondelete="CASCADE"))


class Receiver(Table):
    """A webhook endpoint or a people's channel of a tenant.

    ``kind`` is webhook or channel. ``url`` is the address of a webhook, and only the scheme of a channel, whose address
    is a secret. ``notices`` names the notices that are delivered; ``job_id`` limits them to one job. ``waiting_s`` is
    the time after which a job counts as waiting for long. ``sealed`` is the signing secret, or the channel's address,
    encrypted (``settings.sealing``); ``old_sealed`` signs beside it until ``old_until``. ``hint`` is the end of the
    signing secret. ``failing_since`` is the first failure since the last success; ``off_at`` is when the receiver was
    switched off, and ``off_reason`` says why.
    """

    __tablename__ = "receiver"
    __table_args__ = (Index(None, "tenant", "created_at"), Index(None, "job_id"))

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"))
    kind: Mapped[str] = mapped_column(String(8))
    name: Mapped[str]
    url: Mapped[str]
    notices: Mapped[list[str]]
    job_id: Mapped[str | None] = _job()
    waiting_s: Mapped[int | None]
    sealed: Mapped[str]
    old_sealed: Mapped[str | None]
    old_until: Mapped[datetime | None]
    hint: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    failing_since: Mapped[datetime | None]
    off_at: Mapped[datetime | None]
    off_reason: Mapped[str | None]


class Delivery(Table):
    """A notice that must be, or was, delivered to one receiver; written in the transaction of its cause.

    ``event_id`` is equal for all receivers of the event and in all tries. Deliveries of one receiver and ``subject`` (a
    job, a champion, a schedule) go out in order of ``id``. ``next_at`` is when the next try is due, null once the
    delivery has ended as ``outcome``: delivered, given_up, or off (the receiver was switched off). ``since`` is the
    time from which tries are counted; ``tries`` is their log.
    """

    __tablename__ = "delivery"
    __table_args__ = (
        Index("ix_delivery_next_at", "next_at", info={"where": OPEN}),
        Index(None, "receiver_id", "subject"),
        Index(None, "job_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    receiver_id: Mapped[str] = mapped_column(String(64), ForeignKey("receiver.id", ondelete="CASCADE"))
    event_id: Mapped[str] = mapped_column(String(64))
    notice: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str | None] = _job()
    facts: Mapped[JsonObject]
    created_at: Mapped[datetime]
    since: Mapped[datetime]
    next_at: Mapped[datetime | None]
    claimed_until: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    outcome: Mapped[str | None] = mapped_column(String(16))
    ended_at: Mapped[datetime | None]
    tries: Mapped[list[JsonObject]] = mapped_column(FiniteJson(), default=list)
