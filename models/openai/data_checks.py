"""Reads and writes the rows of checks of data over HTTP."""

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from ...errors import RequestError
from ..database import now
from ..tables import DataCheck
from ..tables.types import JsonObject

LIFE_S = 3600
"""Seconds after which a check expires, counted from its end, or from its last sign of life where it has not ended."""
MOST_TRIES = 3
"""Tries of a check whose worker died."""


def add_check(
    session: Session, *, check_id: str, tenant: str, spec: JsonObject, file_names: Mapping[str, str]
) -> DataCheck:
    """Write the row of a new check.

    Args:
        session: An open session.
        check_id: Its id.
        tenant: Its owner.
        spec: The spec that is checked.
        file_names: The names of its files by set.
    """
    at = now(session)
    times = {"created_at": at, "sent_at": at, "expires_at": at + timedelta(seconds=LIFE_S)}
    row = DataCheck(id=check_id, tenant=tenant, spec=spec, file_names=dict(file_names), **times)
    session.add(row)
    session.flush()
    return row


def find_check(session: Session, tenant: str, check_id: str) -> DataCheck:
    """Find a tenant's check.

    Raises:
        RequestError: There is no such check of this tenant, or it has expired (404).
    """
    mine = (DataCheck.id == check_id, DataCheck.tenant == tenant, DataCheck.expires_at > now(session))
    row = session.scalars(select(DataCheck).where(*mine)).one_or_none()
    if row is None:
        raise RequestError(
            f"there is no check {check_id[:100]}; a result is kept for an hour.", reason="check_not_found", status=404
        )
    return row


def count_open(session: Session, tenant: str) -> int:
    """Count the checks of a tenant that have not ended."""
    mine = (DataCheck.tenant == tenant, DataCheck.result.is_(None), DataCheck.expires_at > now(session))
    return session.scalar(select(func.count()).select_from(DataCheck).where(*mine)) or 0


def claim_check(session: Session, check_id: str, for_s: float) -> DataCheck | None:
    """Claim a check for some time; None if it has ended, is gone, or another worker holds it."""
    at = now(session)
    free = or_(DataCheck.claimed_until.is_(None), DataCheck.claimed_until < at)
    wanted = select(DataCheck).where(DataCheck.id == check_id, DataCheck.result.is_(None), free)
    row = session.scalars(wanted.with_for_update()).one_or_none()
    if row is None:
        return None
    row.tries, row.claimed_until = row.tries + 1, at + timedelta(seconds=for_s)
    row.expires_at = at + timedelta(seconds=LIFE_S)
    session.flush()
    return row


def renew_claim(session: Session, check_id: str, for_s: float) -> bool:
    """Extend the claim of a check that runs; return False if the check is gone or has ended."""
    at = now(session)
    times = {"claimed_until": at + timedelta(seconds=for_s), "expires_at": at + timedelta(seconds=LIFE_S)}
    mine = update(DataCheck).where(DataCheck.id == check_id, DataCheck.result.is_(None))
    renewed = mine.values(**times).returning(DataCheck.id).execution_options(synchronize_session=False)
    return bool(session.scalars(renewed).all())


def end_check(session: Session, check_id: str, result: JsonObject) -> None:
    """Record the result of a check, unless it is gone."""
    row = session.get(DataCheck, check_id)
    if row is not None and row.result is None:
        row.result, row.claimed_until = result, None
        row.expires_at = now(session) + timedelta(seconds=LIFE_S)
        session.flush()


def list_unsent(session: Session, resend_s: float, limit: int = 100) -> list[str]:
    """List the checks whose message was sent that long ago, or whose worker died; note that each is sent again."""
    at = now(session)
    late = DataCheck.claimed_until.is_(None) & (DataCheck.sent_at < at - timedelta(seconds=resend_s))
    lapsed = DataCheck.claimed_until < at
    wanted = select(DataCheck).where(DataCheck.result.is_(None), DataCheck.expires_at > at, or_(late, lapsed))
    found = list(session.scalars(wanted.order_by(DataCheck.sent_at).limit(limit).with_for_update(skip_locked=True)))
    for row in found:
        row.sent_at, row.claimed_until = at, None
    session.flush()
    return [row.id for row in found]


def forget_checks(session: Session) -> int:
    """Delete the checks that have expired, and return their number."""
    gone = delete(DataCheck).where(DataCheck.expires_at < now(session)).returning(DataCheck.id)
    return len(session.scalars(gone.execution_options(synchronize_session=False)).all())
