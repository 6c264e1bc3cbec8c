"""Keeps the keys of tenants: makes, lists, rotates and revokes them, and finds the key that a request brings.

A key is random, so its SHA-256 is all that must be kept, and a search by it is an index look-up; slow hashes protect
weak passwords. Nothing is cached: a revocation is in force at the next look-up. The time of the last use is written at
most once a minute, so that reads stay reads.
"""

import hashlib
import hmac
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from ...errors import AccessError, NotFoundError, SettingsError
from ...settings.key_format import PREFIX, is_key, new_key
from ..database import now
from ..tables import ApiKey
from .limits import add_tenant

READ, SUBMIT, ADMIN = "read", "submit", "admin"
SCOPES = (READ, SUBMIT, ADMIN)
DEFAULT_SCOPES = (READ, SUBMIT)
SHOWN_DIGITS = 4
USE_NOTED_S = 60
LONGEST_NAME = 200
LONGEST_KEPT_S = 3660 * 86400.0
LAST = datetime(9999, 12, 31, tzinfo=UTC)
"""The last time that a key can end."""
_REFUSED = "this key is unknown, revoked or expired."


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever a key acts for.

    Attributes:
        key_id: The key.
        tenant: Its tenant.
        name: Its name, as the one who made it chose.
        scopes: What it may do.
    """

    key_id: str
    tenant: str
    name: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Check that the key has a scope.

        Raises:
            AccessError: It has not.
        """
        if scope not in self.scopes:
            raise AccessError(
                f"this key may not do that; it needs the scope {scope}.", hint=f"Use a key with the scope {scope}."
            )


def create_key(
    session: Session,
    *,
    tenant: str,
    scopes: Collection[str] = DEFAULT_SCOPES,
    name: str = "",
    by: str = "",
    expires_at: datetime | None = None,
    rotated_from: str | None = None,
) -> tuple[ApiKey, str]:
    """Make a key for a tenant, which is made where it is missing.

    Returns:
        The row, and the key itself, which is kept nowhere.

    Raises:
        SettingsError: A scope is unknown, the name is too long, or the end lies in the past.
    """
    at = now(session)
    expires_at = None if expires_at is None else _checked_end(expires_at, at)
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise SettingsError(f"a key's name has at most {LONGEST_NAME} printable letters.", hint="Choose another.")
    add_tenant(session, tenant)
    key = new_key()
    row = ApiKey(
        id=f"key_{hashlib.sha256(key.encode()).hexdigest()[:16]}",
        tenant=tenant,
        name=name,
        sha256=digest_of(key),
        shown=key[: len(PREFIX) + SHOWN_DIGITS],
        scopes=checked_scopes(scopes),
        created_at=at,
        created_by=by,
        expires_at=expires_at,
        rotated_from=rotated_from,
    )
    session.add(row)
    session.flush()
    return row, key


def list_keys(session: Session, *, tenant: str | None = None) -> list[ApiKey]:
    """List keys, the newest first."""
    wanted = select(ApiKey) if tenant is None else select(ApiKey).where(ApiKey.tenant == tenant)
    return list(session.scalars(wanted.order_by(ApiKey.created_at.desc(), ApiKey.id)))


def find_key(session: Session, key_id: str) -> ApiKey:
    """Find a key by its id and lock it.

    Raises:
        NotFoundError: There is none.
    """
    row = session.scalars(select(ApiKey).where(ApiKey.id == key_id).with_for_update()).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no key {key_id[:40]}.", hint="See `celora key list`.")
    return row


def revoke_key(session: Session, key_id: str) -> ApiKey:
    """Revoke a key; one that is revoked already stays so.

    Raises:
        NotFoundError: There is none.
    """
    row = find_key(session, key_id)
    row.revoked_at = row.revoked_at or now(session)
    session.flush()
    return row


def rotate_key(session: Session, key_id: str, *, by: str = "", keep_s: float = 0.0) -> tuple[ApiKey, str]:
    """Make a key with the rights of another one, and end the other one.

    Args:
        session: An open session.
        key_id: The old key. A new expiry is as far away as the old one was when the old key was made.
        by: Whoever rotates it.
        keep_s: Seconds for which the old key stays valid; revoked at once unless given.

    Raises:
        NotFoundError: There is no such key.
        SettingsError: It is revoked or has expired, or is to stay valid for more than ten years.
    """
    if not 0 <= keep_s <= LONGEST_KEPT_S:
        raise SettingsError("a key that was rotated stays valid for 0 s to ten years.", hint="Give less: --keep 24h")
    old, at = find_key(session, key_id), now(session)
    if not _is_valid(old, at):
        raise SettingsError(f"key {key_id} is revoked or has expired.", hint="Make a new one: celora key create.")
    lasts = old.expires_at - old.created_at if old.expires_at else None
    made = create_key(
        session,
        tenant=old.tenant,
        scopes=old.scopes,
        name=old.name,
        by=by,
        expires_at=min(lasts, LAST - at) + at if lasts else None,
        rotated_from=old.id,
    )
    if keep_s > 0:
        end = at + timedelta(seconds=keep_s)
        old.expires_at = min(end, old.expires_at or end)
    else:
        old.revoked_at = at
    session.flush()
    return made


def authenticate(session: Session, key: str) -> Principal:
    """Find whoever a key acts for.

    The look-up is by the hash of the key, so its time tells nothing about other keys; the answer to an unknown, a
    revoked and an expired key is the same.

    Args:
        session: An open session over all tenants, since the tenant is not known yet.
        key: The key as a request brings it.

    Raises:
        AccessError: It is no key, or is unknown, revoked or expired.
    """
    if not is_key(key):
        raise AccessError(
            "this is no key of celora.",
            hint=f"A key begins with {PREFIX} and has 56 characters; make one with `celora key create`.",
        )
    digest, at = digest_of(key), now(session)
    row = session.scalars(select(ApiKey).where(ApiKey.sha256 == digest)).one_or_none()
    if row is None or not hmac.compare_digest(row.sha256, digest) or not _is_valid(row, at):
        raise AccessError(_REFUSED, hint="Ask for a new one.")
    if row.last_used_at is None or (at - row.last_used_at).total_seconds() >= USE_NOTED_S:
        noted = update(ApiKey).where(ApiKey.id == row.id).values(last_used_at=at)
        session.execute(noted.execution_options(synchronize_session=False))
    return Principal(row.id, row.tenant, row.name, frozenset(row.scopes))


def keys_in_force(session: Session, key_ids: Collection[str]) -> set[str]:
    """Return the ids of those keys that are neither revoked nor expired."""
    at = now(session)
    wanted = select(ApiKey).where(ApiKey.id.in_(list(key_ids)))
    return {row.id for row in session.scalars(wanted) if _is_valid(row, at)}


def checked_scopes(scopes: Collection[str]) -> list[str]:
    """Return the scopes in their order.

    Raises:
        SettingsError: One is unknown, or there is none.
    """
    unknown: Sequence[str] = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        what = f"there is no scope {unknown[0][:40]!r}" if unknown else "a key needs a scope"
        raise SettingsError(f"{what}.", hint=f"Use some of {', '.join(SCOPES)}.")
    return [scope for scope in SCOPES if scope in scopes]


def digest_of(key: str) -> str:
    """Return the SHA-256 of a key in hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def _checked_end(end: datetime, at: datetime) -> datetime:
    """Return the end of a key in UTC; a time whose zone moves it out of the calendar is no time that can be kept."""
    try:
        utc = end.astimezone(UTC)
    except OverflowError:
        utc = LAST if end > at else at
    if utc <= at:
        raise SettingsError("--expires: the key would have expired already.", hint="Give a time to come.")
    return min(utc, LAST)


def _is_valid(row: ApiKey, at: datetime) -> bool:
    return row.revoked_at is None and (row.expires_at is None or row.expires_at > at)
