"""Writes the audit: a row for each change, in the transaction of the change, so that neither exists without the other.

The actor is known at the door (a command, a task, a request) and needed far below it; ``acting`` sets the actor for a
block, as the context of log lines is set. Where nobody set one, the person who runs this process is the actor.
"""

import getpass
import os
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from ...settings.redaction import redactor
from ..database import now
from ..tables import AuditEntry
from ..tables.types import JsonObject

LONGEST_OBJECT = 255
OPERATOR, MESSAGE = "operator", "message"


@dataclass(frozen=True, slots=True)
class Actor:
    """Whoever makes a change.

    Attributes:
        who: A person's name, or the part of celora that acts.
        key_id: The key that was used; None for an operator.
        address: The place from which the change came: a host, or a client's address.
    """

    who: str
    key_id: str | None = None
    address: str = ""


_actor: ContextVar[Actor | None] = ContextVar("celora_actor", default=None)


@contextmanager
def acting(actor: Actor) -> Generator[None]:
    """Make an actor responsible for the changes of the block."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


def current_actor() -> Actor:
    """Return the actor of the present block, else the operator who runs this process."""
    return _actor.get() or _operator()


@lru_cache(maxsize=1)
def _operator() -> Actor:
    try:
        name = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user id without an entry, as in many containers
        name = f"uid {os.getuid()}"
    return Actor(f"{OPERATOR} {name}", address=socket.gethostname())


def record_audit(  # noqa: PLR0917  (who did what to which object: the order of an audit line)
    session: Session,
    actor: Actor,
    action: str,
    target: str,
    before: Mapping[str, object] | None = None,
    after: Mapping[str, object] | None = None,
    *,
    tenant: str | None,
) -> None:
    """Write an audit row in the transaction of the change.

    Args:
        session: The session of the change.
        actor: Whoever makes it (``current_actor``).
        action: A stable word, the object's kind first: ``job.cancel``.
        target: The object's name or id.
        before: The facts that change, before; None for a new object.
        after: The facts after the change; None for an object that is gone.
        tenant: The tenant whose object it is; None for one of the installation.
    """
    session.add(
        AuditEntry(
            at=now(session),
            tenant=tenant,
            actor=actor.who,
            key_id=actor.key_id,
            action=action,
            object=target[:LONGEST_OBJECT],
            address=actor.address,
            before=_masked(before),
            after=_masked(after),
        )
    )
    session.flush()


def list_audit(
    session: Session,
    *,
    tenant: str | None = None,
    target: str | None = None,
    action: str | None = None,
    before_id: int | None = None,
    limit: int = 50,
) -> list[AuditEntry]:
    """List audit rows, the newest first.

    Args:
        session: An open session.
        tenant: Only the changes of this tenant's objects.
        target: Only the changes of this object.
        action: Only this action, or those of a kind: ``job`` finds ``job.cancel``.
        before_id: Only rows older than this one, for the next page.
        limit: The largest number of rows.
    """
    guards: list[ColumnElement[bool]] = []
    guards += [AuditEntry.tenant == tenant] if tenant is not None else []
    guards += [AuditEntry.object == target] if target is not None else []
    guards += [AuditEntry.id < before_id] if before_id is not None else []
    if action is not None:
        guards.append((AuditEntry.action == action) | AuditEntry.action.startswith(f"{action}.", autoescape=True))
    return list(session.scalars(select(AuditEntry).where(*guards).order_by(AuditEntry.id.desc()).limit(limit)))


def _masked(facts: Mapping[str, object] | None) -> JsonObject | None:
    return None if facts is None else redactor().data(dict(facts))
