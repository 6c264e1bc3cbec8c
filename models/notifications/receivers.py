"""Keeps the receivers of a tenant: webhook endpoints, and the channels of people."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from ...errors import NotFoundError, SettingsError
from ..database import now
from ..rows import upsert_insert
from ..tables import Receiver, Tenant
from .notices import Notice

WEBHOOK, CHANNEL = "webhook", "channel"
MOST_RECEIVERS = 20
"""Receivers of one kind that a tenant may have."""


@dataclass(frozen=True, kw_only=True)
class NewReceiver:
    """The facts of a receiver that is to be added.

    Attributes:
        id: Its id.
        kind: ``WEBHOOK`` or ``CHANNEL``.
        name: A name for people.
        url: The address of a webhook; the scheme of a channel.
        notices: What it is notified of.
        sealed: The signing secret or the channel's address, encrypted.
        hint: The end of the signing secret.
        job_id: The only job that it is notified of; None for all.
        waiting_s: Seconds after which a job counts as waiting for long.
    """

    id: str
    kind: str
    name: str
    url: str
    notices: Sequence[Notice]
    sealed: str
    hint: str = ""
    job_id: str | None = None
    waiting_s: int | None = None


def add_receiver(session: Session, tenant: str, receiver: NewReceiver) -> Receiver:
    """Add a receiver to a tenant, whose row is made where it is missing.

    Raises:
        SettingsError: The tenant has ``MOST_RECEIVERS`` of that kind.
    """
    at = now(session)
    owner = upsert_insert(session, Tenant).values(name=tenant, created_at=at)
    session.execute(owner.on_conflict_do_nothing(index_elements=["name"]))
    if len(list_receivers(session, tenant=tenant, kind=receiver.kind)) >= MOST_RECEIVERS:
        raise SettingsError(f"there are {MOST_RECEIVERS} of them already.", hint="Remove one first.")
    columns = {**vars(receiver), "notices": [notice.value for notice in receiver.notices]}
    row = Receiver(tenant=tenant, created_at=at, updated_at=at, **columns)
    session.add(row)
    session.flush()
    return row


def find_receiver(session: Session, tenant: str, receiver_id: str) -> Receiver:
    """Find a receiver of a tenant by its id, or by its name where one alone has it; its row is locked.

    Raises:
        NotFoundError: There is no such receiver.
    """
    mine = select(Receiver).where(Receiver.tenant == tenant).with_for_update()
    found = session.scalars(mine.where(Receiver.id == receiver_id)).one_or_none()
    if found is not None:
        return found
    named = list(session.scalars(mine.where(Receiver.name == receiver_id)))
    if len(named) != 1:
        raise NotFoundError(f"there is no receiver {receiver_id[:64]}.", hint="See `celora notify list`.")
    return named[0]


def list_receivers(session: Session, *, tenant: str | None = None, kind: str | None = None) -> list[Receiver]:
    """List receivers, the newest first."""
    wanted = select(Receiver).order_by(Receiver.created_at.desc(), Receiver.id.desc())
    if tenant is not None:
        wanted = wanted.where(Receiver.tenant == tenant)
    if kind is not None:
        wanted = wanted.where(Receiver.kind == kind)
    return list(session.scalars(wanted))


def switch_on(session: Session, tenant: str, receiver_id: str) -> Receiver:
    """Switch a receiver on again that was switched off; its failures so far are forgotten.

    Raises:
        NotFoundError: There is no such receiver.
    """
    row = find_receiver(session, tenant, receiver_id)
    row.off_at = row.off_reason = row.failing_since = None
    session.flush()
    return row
