"""Claims the deliveries that are due, and records each try: the next one, the end, or a receiver that is switched off.

A claim is a row's own lease: a sender that is killed leaves the row to the next sender. As long as a claim lives, no
other sender claims anything, so that senders do not pile up behind receivers that never answer. Deliveries of one
receiver about one subject go out in order, each only after the one before has ended.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from ...errors import NotFoundError, SettingsError
from ..database import now
from ..states import Stage, Status
from ..tables import Delivery, Job, Receiver
from ..tables.types import JsonObject
from ..tenants.audit import Actor, record_audit
from .notices import Notice, add_delivery, new_event_id, queue_notice

DELIVERED, GIVEN_UP, OFF = "delivered", "given_up", "off"
PAUSES_S = (10, 120, 600, 1800, 3600, 2 * 3600, 4 * 3600)
"""Seconds before each further try; the last one repeats."""
GIVE_UP_S = 24 * 3600.0
FAILING_S = 3 * 24 * 3600.0
"""Seconds of failures alone after which a webhook endpoint is switched off."""
GONE = 410
"""The status by which a receiver says that it wants no more deliveries (Standard Webhooks)."""
MOST_TRIES = 20
"""Tries that the log of a delivery keeps."""
MOST_NEW = 20
BEFORE_TRAINING = (Stage.PREPARE, Stage.TRAIN)
"""Stages in which a job may wait for its first device; ``resolved`` is set once its training has begun."""
SENDER = Actor("notifications")
"""The actor who switches receivers off."""


@dataclass(frozen=True, kw_only=True)
class Try:
    """A try to deliver.

    Attributes:
        status: The status of the answer; None without an answer.
        fault: The fault in words; empty after a success.
        seconds: Its duration.
    """

    status: int | None = None
    fault: str = ""
    seconds: float = 0.0


def queue_waiting(session: Session) -> int:
    """Queue the notices about jobs whose training has not begun a receiver's time after their submission.

    A job is told once to each receiver. Preparing its data takes no device and ends no wait.
    """
    at, queued = now(session), 0
    asking = select(Receiver).where(Receiver.waiting_s.is_not(None), Receiver.off_at.is_(None))
    for receiver in session.scalars(asking.order_by(Receiver.id)).all():
        told = exists().where(
            Delivery.receiver_id == receiver.id, Delivery.notice == Notice.WAITING.value, Delivery.job_id == Job.id
        )
        since = at - timedelta(seconds=receiver.waiting_s or 0)
        waits = [Job.status.in_((Status.PENDING, Status.QUEUED)), Job.stage.in_(BEFORE_TRAINING)]
        # a retry takes over what the run before it resolved
        waits += [or_(Job.resolved.is_(None), Job.started_at.is_(None)), Job.paused.is_(False)]
        waits += [Job.tenant == receiver.tenant, Job.created_at <= since, ~told]
        waits += [Job.id == receiver.job_id] if receiver.job_id else []
        for job_id in session.scalars(select(Job.id).where(*waits).order_by(Job.created_at, Job.id).limit(MOST_NEW)):
            facts: JsonObject = {"waiting_s": receiver.waiting_s}
            add_delivery(session, receiver.id, new_event_id(), Notice.WAITING, job_id, job_id=job_id, facts=facts)
            queued += 1
    session.flush()
    return queued


def claim_due(session: Session, *, most: int, for_s: float) -> list[tuple[Delivery, Receiver]]:
    """Claim deliveries that are due, at most one for each receiver; none while another sender's claim lives.

    Receivers whose last delivery arrived come first, and tenants take turns, so that a tenant with many receivers that
    never answer delays its own deliveries alone.

    Args:
        session: An open session.
        most: The largest number of deliveries.
        for_s: Seconds for which they are claimed.
    """
    at, claimed = now(session), list[tuple[Delivery, Receiver]]()
    if session.scalar(select(Delivery.id).where(_is_open(), Delivery.claimed_until > at).limit(1)) is not None:
        return []
    for receiver in _in_turn(session, at):
        mine = select(Delivery).where(Delivery.receiver_id == receiver.id, *_is_due(at))
        delivery = session.scalars(mine.order_by(Delivery.next_at, Delivery.id).limit(1)).one_or_none()
        if delivery is not None and _claim(session, delivery.id, at, for_s):
            claimed.append((delivery, receiver))
        if len(claimed) == most:
            break
    return claimed


def record_try(session: Session, delivery_id: int, result: Try) -> None:
    """Record a try: it ends the delivery, or sets the time of the next one, or switches the receiver off."""
    receiver = _lock_receiver_of(session, delivery_id)
    row = session.get(Delivery, delivery_id, with_for_update=True, populate_existing=True)
    if receiver is None or row is None:
        return
    at = now(session)
    line: JsonObject = {"at": at.isoformat(), "status": result.status, "seconds": round(result.seconds, 3)}
    row.tries = [*row.tries, line | ({"fault": result.fault} if result.fault else {})][-MOST_TRIES:]
    row.attempts, row.claimed_until = row.attempts + 1, None
    if not result.fault:
        receiver.failing_since = None
        _end(row, DELIVERED, at)
    else:
        failing_since = receiver.failing_since = receiver.failing_since or at
        pause = timedelta(seconds=PAUSES_S[min(row.attempts, len(PAUSES_S)) - 1])
        if at + pause > row.since + timedelta(seconds=GIVE_UP_S):
            _end(row, GIVEN_UP, at)
        elif row.next_at is not None:
            row.next_at = at + pause
        if result.status == GONE:
            switch_off(session, receiver, "it answered 410 Gone")
        elif at - failing_since >= timedelta(seconds=FAILING_S):
            switch_off(session, receiver, f"it failed since {failing_since:%Y-%m-%d %H:%M} UTC")
    session.flush()


def switch_off(session: Session, receiver: Receiver, why: str) -> None:
    """Switch a receiver off, end its open deliveries, and notify the tenant's other receivers."""
    at = now(session)
    receiver.off_at, receiver.off_reason = at, why
    session.flush()
    ended = {"next_at": None, "claimed_until": None, "outcome": OFF, "ended_at": at}
    waiting = update(Delivery).where(Delivery.receiver_id == receiver.id, Delivery.next_at.is_not(None))
    session.execute(waiting.values(**ended).execution_options(synchronize_session=False))
    record_audit(session, SENDER, "receiver.off", receiver.id, None, {"reason": why}, tenant=receiver.tenant)
    queue_notice(session, Notice.OFF, receiver.tenant, receiver.id, facts={"name": receiver.name, "reason": why})


def list_deliveries(
    session: Session, *, tenant: str | None = None, receiver_id: str | None = None, limit: int = 50
) -> list[tuple[Delivery, Receiver]]:
    """List deliveries with their receivers, the newest first."""
    wanted = select(Delivery, Receiver).join(Receiver, Receiver.id == Delivery.receiver_id)
    guards = [Receiver.tenant == tenant] if tenant is not None else []
    guards += [Receiver.id == receiver_id] if receiver_id is not None else []
    rows = session.execute(wanted.where(*guards).order_by(Delivery.id.desc()).limit(limit))
    return [(delivery, receiver) for delivery, receiver in rows]


def redeliver(session: Session, tenant: str | None, delivery_id: int) -> Delivery:
    """Make a delivery due at once, whether it has ended or not, with a day of tries before it.

    Raises:
        NotFoundError: There is no such delivery (of this tenant).
        SettingsError: Its receiver is switched off.
    """
    wanted = select(Delivery, Receiver).join(Receiver, Receiver.id == Delivery.receiver_id)
    guards = [Delivery.id == delivery_id, *([Receiver.tenant == tenant] if tenant is not None else [])]
    found = session.execute(wanted.where(*guards).with_for_update(of=Delivery)).one_or_none()
    if found is None:
        raise NotFoundError("there is no such delivery.", hint="See `celora notify log`.")
    row, receiver = found
    if receiver.off_at is not None:
        hint = f"Switch it on first: celora notify on {receiver.id}"
        raise SettingsError(f"the receiver {receiver.id} is switched off.", hint=hint)
    row.next_at = row.since = now(session)
    row.attempts, row.outcome, row.ended_at = 0, None, None
    session.flush()
    return row


def forget_deliveries(session: Session, before: datetime) -> int:
    """Delete the deliveries that ended before that time, and return their number."""
    old = delete(Delivery).where(Delivery.next_at.is_(None), Delivery.ended_at < before)
    return len(session.scalars(old.returning(Delivery.id)).all())


def _in_turn(session: Session, at: datetime) -> list[Receiver]:
    """List the receivers that have a due delivery, in the order of their turns."""
    due = select(Delivery.receiver_id, func.min(Delivery.next_at)).where(*_is_due(at)).group_by(Delivery.receiver_id)
    first = {receiver_id: since for receiver_id, since in session.execute(due) if since is not None}
    active = select(Receiver).where(Receiver.id.in_(first), Receiver.off_at.is_(None))
    waiting = sorted(session.scalars(active), key=lambda one: (one.failing_since is not None, first[one.id], one.id))
    turns, ranked = Counter[str](), list[tuple[bool, int, int]]()
    for place, receiver in enumerate(waiting):
        ranked.append((receiver.failing_since is not None, turns[receiver.tenant], place))
        turns[receiver.tenant] += 1
    return [waiting[place] for *_, place in sorted(ranked)]


def _is_due(at: datetime) -> tuple[ColumnElement[bool], ...]:
    """Build the condition of a due delivery: nothing earlier about its subject is open for its receiver."""
    earlier = aliased(Delivery)
    behind = exists().where(
        earlier.receiver_id == Delivery.receiver_id,
        earlier.subject == Delivery.subject,
        earlier.id < Delivery.id,
        earlier.next_at.is_not(None),
    )
    return (Delivery.next_at <= at, ~behind)


def _lock_receiver_of(session: Session, delivery_id: int) -> Receiver | None:
    """Lock the receiver of a delivery, before the delivery as a deletion does; new deliveries do not wait for it."""
    mine = select(Receiver).join(Delivery, Delivery.receiver_id == Receiver.id).where(Delivery.id == delivery_id)
    locked = mine.with_for_update(of=Receiver, key_share=True).execution_options(populate_existing=True)
    return session.scalars(locked).one_or_none()


def _claim(session: Session, delivery_id: int, at: datetime, for_s: float) -> bool:
    free = or_(Delivery.claimed_until.is_(None), Delivery.claimed_until <= at)
    taken = update(Delivery).where(Delivery.id == delivery_id, Delivery.next_at <= at, free)
    taken = taken.values(claimed_until=at + timedelta(seconds=for_s)).returning(Delivery.id)
    return session.scalar(taken.execution_options(synchronize_session=False)) is not None


def _is_open() -> ColumnElement[bool]:
    return Delivery.next_at.is_not(None)


def _end(row: Delivery, outcome: str, at: datetime) -> None:
    row.next_at, row.outcome, row.ended_at = None, outcome, at
