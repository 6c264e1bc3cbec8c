"""Makes, lists, rotates and revokes the keys of tenants, and authenticates whoever brings one.

A revocation is in force at once: each request looks its key up, and nothing is cached.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select

from ...models.database import get_database
from ...models.queries import get_tenant
from ...models.scope.scope import Scope
from ...models.tables import ApiKey
from ...models.tenants import keys as records
from ...models.tenants.audit import current_actor, record_audit
from ...models.tenants.keys import DEFAULT_SCOPES, Principal
from ...models.tenants.limits import check_tenant_name
from ...settings.settings import get_settings
from .scopes import scope_of, scope_of_known


@dataclass(frozen=True, kw_only=True)
class KeyView:
    """A key as it may be shown: never the key itself.

    Attributes:
        id: Its id.
        tenant: The tenant that it acts for.
        name: The name that its maker chose.
        shown: Its beginning.
        scopes: Some of ``read``, ``submit``, ``admin``.
        created_at: When it was made.
        created_by: Who made it.
        expires_at: When it ends; None for never.
        revoked_at: When it was revoked; None while it is valid.
        last_used_at: When it was last used, to the minute.
        rotated_from: The id of the key whose place it took.
    """

    id: str
    tenant: str
    name: str
    shown: str
    scopes: list[str]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    rotated_from: str | None

    @classmethod
    def of(cls, row: ApiKey) -> "KeyView":
        """Read a key's row."""
        return cls(**{name: getattr(row, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """A key that was just made, the only time that it is known.

    Attributes:
        id: Its id.
        key: The key itself; it stays out of representations, and so out of logs.
        tenant: The tenant that it acts for.
        scopes: Its scopes.
        expires_at: When it ends; None for never.
    """

    id: str
    key: str = field(repr=False)
    tenant: str
    scopes: list[str]
    expires_at: datetime | None


def create_key(
    tenant: str, *, scopes: Collection[str] = DEFAULT_SCOPES, name: str = "", expires_at: datetime | None = None
) -> NewKey:
    """Makes a key for a tenant, which is made where it is missing.

    Args:
        tenant: The tenant that the key acts for.
        scopes: Some of ``read``, ``submit``, ``admin``.
        name: A name for lists.
        expires_at: When the key ends; never unless given.

    Raises:
        SettingsError: A scope is unknown, a name has a wrong form, or the end lies in the past.
        NotFoundError: There is no such tenant, and the installation makes none by its first use.
    """
    tenant, actor = check_tenant_name(tenant), current_actor()
    with get_database().transaction(Scope.of(tenant)) as session:
        if get_settings().known_tenants_only:
            get_tenant(session, tenant)
        row, key = records.create_key(
            session, tenant=tenant, scopes=scopes, name=name, by=actor.who, expires_at=expires_at
        )
        record_audit(session, actor, "key.create", row.id, None, _facts(row), tenant=tenant)
        return _made(row, key)


def list_keys(tenant: str | None = None) -> list[KeyView]:
    """Lists the keys of a tenant, or of all; the newest first.

    Raises:
        NotFoundError: There is no such tenant.
    """
    with get_database().session(scope_of_known(tenant)) as session:
        return [KeyView.of(row) for row in records.list_keys(session, tenant=tenant)]


def revoke_key(key_id: str, *, tenant: str | None = None) -> KeyView:
    """Revokes a key at once.

    Args:
        key_id: The key's id.
        tenant: The tenant that must own the key.

    Raises:
        NotFoundError: There is no such key (of this tenant).
    """
    with get_database().transaction(scope_of(tenant)) as session:
        before = records.find_key(session, key_id).revoked_at
        row = records.revoke_key(session, key_id)
        if before is None:
            record_audit(session, current_actor(), "key.revoke", row.id, _facts(row), None, tenant=row.tenant)
        return KeyView.of(row)


def rotate_key(key_id: str, *, tenant: str | None = None, keep_s: float = 0.0) -> NewKey:
    """Makes a key with the rights of another one, and ends the other one; a key may rotate itself.

    Args:
        key_id: The old key's id.
        tenant: The tenant that must own the key.
        keep_s: Seconds for which the old key stays valid.

    Raises:
        NotFoundError: There is no such key (of this tenant).
        SettingsError: It is revoked or has expired.
    """
    actor = current_actor()
    with get_database().transaction(scope_of(tenant)) as session:
        row, key = records.rotate_key(session, key_id, by=actor.who, keep_s=keep_s)
        after = {**_facts(row), "rotated_from": key_id, "old_key_kept_s": keep_s}
        record_audit(session, actor, "key.rotate", row.id, None, after, tenant=row.tenant)
        return _made(row, key)


def authenticate(key: str) -> Principal:
    """Finds whoever a key acts for, by one look-up in the record.

    Raises:
        AccessError: It is no key, or is unknown, revoked or expired.
    """
    with get_database().session(Scope.everything) as session:
        return records.authenticate(session, key)


def in_force(key_ids: Collection[str]) -> set[str]:
    """Returns the ids of those keys that still hold, by one look-up; for answers that go on for hours.

    Args:
        key_ids: Ids of keys. An empty one stands for a request without a key, which holds as long as no key exists.
    """
    with get_database().session(Scope.everything) as session:
        held = records.keys_in_force(session, key_ids)
    return held | {""} if "" in key_ids and not exist() else held


def _facts(row: ApiKey) -> dict[str, object]:
    end = row.expires_at.isoformat() if row.expires_at else None
    return {"name": row.name, "scopes": row.scopes, "expires_at": end}


def _made(row: ApiKey, key: str) -> NewKey:
    return NewKey(id=row.id, key=key, tenant=row.tenant, scopes=row.scopes, expires_at=row.expires_at)


def exist() -> bool:
    """Return whether a key was ever made; a revoked one counts, since keys are in use here."""
    with get_database().session(Scope.everything) as session:
        return session.scalar(select(ApiKey.id).limit(1)) is not None
