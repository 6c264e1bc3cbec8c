"""Manages whom a tenant notifies, for operators: people's channels, and the log of all deliveries."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from ...errors import NotFoundError, SettingsError
from ...models import queries
from ...models.database import get_database
from ...models.notifications import deliveries, receivers
from ...models.notifications.deliveries import Try
from ...models.notifications.notices import Notice
from ...models.notifications.receivers import CHANNEL, NewReceiver
from ...models.scope.scope import Scope
from ...models.tables import Delivery, Receiver
from ...models.tables.types import JsonObject
from ...models.tenants.audit import current_actor, record_audit
from ...models.tenants.limits import check_tenant_name
from ...settings.sealing import seal
from ...settings.settings import get_settings
from ..tenants.scopes import scope_of, scope_of_known
from .channels import check_channel
from .sending import carry_out, prepare_test

LONGEST_NAME = 64
DEFAULT_WAITING_S = 3600


@dataclass(frozen=True, kw_only=True)
class ReceiverView:
    """A receiver as it may be shown: never its secret.

    Attributes:
        id: Its id.
        tenant: Its owner.
        kind: ``webhook`` or ``channel``.
        name: Its name.
        url: The address of a webhook; the scheme of a channel.
        notices: What it is notified of.
        job: The only job that it is notified of; None for all.
        waiting_s: Seconds after which a job counts as waiting for long.
        created_at: When it was added.
        failing_since: Since when every delivery failed.
        off_at: When it was switched off.
        off_reason: Why.
    """

    id: str
    tenant: str
    kind: str
    name: str
    url: str
    notices: list[str]
    job: str | None
    waiting_s: int | None
    created_at: datetime
    failing_since: datetime | None
    off_at: datetime | None
    off_reason: str | None

    @classmethod
    def of(cls, row: Receiver) -> "ReceiverView":
        """Read a receiver's row."""
        known = {name: getattr(row, name) for name in cls.__dataclass_fields__ if name != "job"}
        return cls(**known, job=row.job_id)


@dataclass(frozen=True, kw_only=True)
class DeliveryView:
    """A delivery with its tries.

    Attributes:
        id: Its number.
        event: The id of the event.
        tenant: The owner of the receiver.
        receiver: The id of the receiver.
        name: The name of the receiver.
        notice: The kind of the notice.
        subject: The job, champion or schedule.
        created_at: When its cause happened.
        outcome: ``delivered``, ``given_up`` or ``off``; None while it is open.
        next_at: When the next try is due.
        ended_at: When it ended.
        tries: Time, status, seconds and fault of each try.
    """

    id: int
    event: str
    tenant: str
    receiver: str
    name: str
    notice: str
    subject: str
    created_at: datetime
    outcome: str | None
    next_at: datetime | None
    ended_at: datetime | None
    tries: list[JsonObject]

    @classmethod
    def of(cls, row: Delivery, receiver: Receiver) -> "DeliveryView":
        """Read a delivery's row."""
        return cls(
            id=row.id,
            event=row.event_id,
            tenant=receiver.tenant,
            receiver=receiver.id,
            name=receiver.name,
            notice=row.notice,
            subject=row.subject,
            created_at=row.created_at,
            outcome=row.outcome,
            next_at=row.next_at,
            ended_at=row.ended_at,
            tries=row.tries,
        )


def add_channel(
    tenant: str,
    name: str,
    url: str,
    *,
    notices: Sequence[Notice],
    job_id: str | None = None,
    waiting_s: int | None = None,
) -> ReceiverView:
    """Adds a channel of people to a tenant.

    Args:
        tenant: The tenant.
        name: A name for lists, unique among the tenant's receivers.
        url: The URL of apprise, a secret.
        notices: What the channel is notified of.
        job_id: The only job that it is notified of.
        waiting_s: Seconds after which a job counts as waiting for long; an hour unless given.

    Raises:
        SettingsError: The URL is refused, the name is taken, or the tenant has too many channels.
        NotFoundError: There is no such job of the tenant.
        UnavailableError: apprise is not installed.
    """
    tenant, settings = check_tenant_name(tenant), get_settings()
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise SettingsError(f"a channel's name has 1 to {LONGEST_NAME} printable characters.")
    scheme = check_channel(url)
    waits = (waiting_s or DEFAULT_WAITING_S) if Notice.WAITING in notices else None
    new = NewReceiver(
        id=f"chan_{secrets.token_hex(8)}",
        kind=CHANNEL,
        name=name,
        url=f"{scheme}://…",
        notices=notices,
        sealed=seal(url, settings),
        job_id=job_id,
        waiting_s=waits,
    )
    with get_database().transaction(Scope.of(tenant)) as session:
        if settings.known_tenants_only:
            queries.get_tenant(session, tenant)
        if job_id is not None:
            queries.get_job(session, job_id)
        if any(row.name == name for row in receivers.list_receivers(session, tenant=tenant)):
            raise SettingsError(f"there is a receiver {name} already.", hint=f"Remove it: celora notify remove {name}")
        row = receivers.add_receiver(session, tenant, new)
        view = ReceiverView.of(row)
        _audit(session, "channel.add", row, None, {"name": name, "url": row.url, "notices": row.notices})
        return view


def list_receivers(tenant: str | None = None) -> list[ReceiverView]:
    """Lists the receivers of a tenant, or of all; the newest first.

    Raises:
        NotFoundError: There is no such tenant.
    """
    with get_database().session(scope_of_known(tenant)) as session:
        return [ReceiverView.of(row) for row in receivers.list_receivers(session, tenant=tenant)]


def remove(tenant: str, words: str) -> ReceiverView:
    """Removes a receiver, by its id or name, with the log of its deliveries.

    Raises:
        NotFoundError: There is no such receiver.
    """
    with get_database().transaction(scope_of(tenant)) as session:
        row = receivers.find_receiver(session, tenant, words)
        view = ReceiverView.of(row)
        _audit(session, f"{row.kind}.remove", row, {"name": row.name, "url": row.url}, None)
        session.delete(row)
        return view


def switch_on(tenant: str, words: str) -> ReceiverView:
    """Switches a receiver on again that failed for days.

    Raises:
        NotFoundError: There is no such receiver.
    """
    with get_database().transaction(scope_of(tenant)) as session:
        row = receivers.find_receiver(session, tenant, words)
        _audit(session, f"{row.kind}.on", row, {"off": row.off_reason}, {"off": None})
        return ReceiverView.of(receivers.switch_on(session, tenant, row.id))


def try_out(tenant: str, words: str) -> Try:
    """Delivers a sample to a receiver now, and returns the result.

    Raises:
        NotFoundError: There is no such receiver.
    """
    with get_database().session(scope_of(tenant)) as session:
        row = receivers.find_receiver(session, tenant, words)
        act = prepare_test(session, row, Notice.DONE, get_settings())
    return carry_out([act])[0]


def list_deliveries(tenant: str | None = None, *, words: str | None = None, limit: int = 50) -> list[DeliveryView]:
    """Lists deliveries with their tries, the newest first.

    Args:
        tenant: Only this tenant's.
        words: Only those to this receiver, by its id or name; needs a tenant.
        limit: The largest number of deliveries.

    Raises:
        NotFoundError: There is no such receiver, or no such tenant.
    """
    with get_database().session(scope_of_known(tenant)) as session:
        receiver_id = receivers.find_receiver(session, tenant or "", words).id if words is not None else None
        found = deliveries.list_deliveries(session, tenant=tenant, receiver_id=receiver_id, limit=limit)
        return [DeliveryView.of(row, receiver) for row, receiver in found]


def redeliver(delivery_id: int, *, tenant: str | None = None) -> DeliveryView:
    """Makes a delivery due at once, whether it has ended or not.

    Raises:
        NotFoundError: There is no such delivery (of this tenant).
        SettingsError: Its receiver is switched off.
    """
    if not 0 < delivery_id < 2**31:
        raise NotFoundError("there is no such delivery.", hint="See `celora notify log`.")
    with get_database().transaction(scope_of(tenant)) as session:
        row = deliveries.redeliver(session, tenant, delivery_id)
        receiver = session.get_one(Receiver, row.receiver_id)
        _audit(session, "delivery.redeliver", receiver, None, {"delivery": row.id, "event": row.event_id})
        return DeliveryView.of(row, receiver)


def _audit(
    session: Session, action: str, row: Receiver, before: dict[str, object] | None, after: dict[str, object] | None
) -> None:
    record_audit(session, current_actor(), action, row.id, before, after, tenant=row.tenant)
