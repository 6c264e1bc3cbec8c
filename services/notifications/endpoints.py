"""Manages a tenant's webhook endpoints, as the webhooks API of OpenAI's client does.

The signing secret is returned when an endpoint is made and when its secret is rotated, and never again.
"""

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.orm import Session

from ...errors import NotFoundError, RequestError, SettingsError
from ...models.database import get_database, now
from ...models.notifications import receivers
from ...models.notifications.notices import Notice
from ...models.notifications.receivers import WEBHOOK, NewReceiver
from ...models.scope.scope import Scope
from ...models.tables import Receiver
from ...models.tenants.audit import current_actor, record_audit
from ...settings.sealing import seal
from ...settings.settings import Settings
from .messages import EVENT_TYPES
from .posting import check_url
from .sending import carry_out, prepare_test
from .signing import hint_of, new_secret

OVERLAP = timedelta(hours=24)
"""Time for which the old secret signs beside a new one, where that is asked for."""
TESTS_AT_ONCE = 4
_tests = threading.BoundedSemaphore(TESTS_AT_ONCE)


@dataclass(frozen=True, kw_only=True)
class EndpointView:
    """A webhook endpoint as it may be shown.

    Attributes:
        id: Its id.
        name: A name for people.
        url: The address.
        notices: What is delivered to it.
        hint: The end of its signing secret.
        created_at: When it was made, seconds of the epoch.
        updated_at: When it or its secret changed last.
        failing_since: Since when every delivery failed; None unless the last one did.
        off_at: When it was switched off; None while it gets deliveries.
        off_reason: Why it was switched off.
    """

    id: str
    name: str
    url: str
    notices: list[Notice]
    hint: str
    created_at: float
    updated_at: float
    failing_since: float | None
    off_at: float | None
    off_reason: str | None

    @classmethod
    def of(cls, row: Receiver) -> "EndpointView":
        """Read an endpoint's row."""
        return cls(
            id=row.id,
            name=row.name,
            url=row.url,
            notices=[Notice(notice) for notice in row.notices if Notice(notice) in EVENT_TYPES],
            hint=row.hint,
            created_at=row.created_at.timestamp(),
            updated_at=row.updated_at.timestamp(),
            failing_since=row.failing_since.timestamp() if row.failing_since else None,
            off_at=row.off_at.timestamp() if row.off_at else None,
            off_reason=row.off_reason,
        )


def create(
    tenant: str, settings: Settings, *, name: str, url: str, notices: Sequence[Notice]
) -> tuple[EndpointView, str]:
    """Makes an endpoint; the second value is its signing secret.

    Raises:
        RequestError: No webhooks may be sent to the URL, or the tenant has too many endpoints.
    """
    check_url(url, settings.webhook_hosts)
    secret = new_secret()
    new = NewReceiver(
        id=f"whep_{secrets.token_hex(16)}",
        kind=WEBHOOK,
        name=name,
        url=url,
        notices=notices,
        sealed=seal(secret, settings),
        hint=hint_of(secret),
    )
    with get_database().transaction(Scope.of(tenant)) as session:
        try:
            row = receivers.add_receiver(session, tenant, new)
        except SettingsError as error:
            raise RequestError(str(error), reason="too_many_endpoints") from None
        _audit(session, "webhook.create", row, None, _facts(row))
        return EndpointView.of(row), secret


def find(tenant: str, endpoint_id: str) -> EndpointView:
    """Finds an endpoint of a tenant.

    Raises:
        RequestError: There is no such endpoint (404).
    """
    with get_database().session(Scope.of(tenant)) as session:
        return EndpointView.of(_find(session, tenant, endpoint_id))


def page(tenant: str, *, after: str | None, limit: int) -> tuple[list[EndpointView], bool]:
    """Lists endpoints, the newest first; the second value is True if more follow.

    Raises:
        RequestError: ``after`` is no endpoint of this tenant.
    """
    with get_database().session(Scope.of(tenant)) as session:
        rows = receivers.list_receivers(session, tenant=tenant, kind=WEBHOOK)
    ids = [row.id for row in rows]
    if after is not None and after not in ids:
        raise RequestError(f"after: there is no webhook endpoint {after[:64]}.", reason="invalid_cursor", param="after")
    rest = rows[ids.index(after) + 1 :] if after is not None else rows
    return [EndpointView.of(row) for row in rest[:limit]], len(rest) > limit


def update(
    tenant: str,
    endpoint_id: str,
    settings: Settings,
    *,
    name: str | None = None,
    url: str | None = None,
    notices: Sequence[Notice] | None = None,
) -> EndpointView:
    """Changes an endpoint, and switches it on again where it was switched off; None leaves a part as it is.

    Raises:
        RequestError: There is no such endpoint (404), or no webhooks may be sent to the URL.
    """
    if url is not None:
        check_url(url, settings.webhook_hosts)
    with get_database().transaction(Scope.of(tenant)) as session:
        row = _find(session, tenant, endpoint_id)
        before = _facts(row)
        row.name, row.url = name or row.name, url or row.url
        row.notices = row.notices if notices is None else [notice.value for notice in notices]
        if _facts(row) != before or row.off_at is not None:
            row.updated_at = now(session)
            receivers.switch_on(session, tenant, row.id)
            _audit(session, "webhook.update", row, before, _facts(row))
        return EndpointView.of(row)


def delete(tenant: str, endpoint_id: str) -> str:
    """Deletes an endpoint with its deliveries, and returns its id.

    Raises:
        RequestError: There is no such endpoint (404).
    """
    with get_database().transaction(Scope.of(tenant)) as session:
        row = _find(session, tenant, endpoint_id)
        _audit(session, "webhook.delete", row, _facts(row), None)
        session.delete(row)
        return row.id


def rotate(tenant: str, endpoint_id: str, settings: Settings, *, keep_old: bool) -> tuple[EndpointView, str]:
    """Gives an endpoint a new signing secret, the second value.

    Args:
        tenant: The owner.
        endpoint_id: The endpoint.
        settings: Settings of the installation.
        keep_old: Sign with the old secret as well for 24 hours.

    Raises:
        RequestError: There is no such endpoint (404).
    """
    secret = new_secret()
    with get_database().transaction(Scope.of(tenant)) as session:
        row, at = _find(session, tenant, endpoint_id), now(session)
        row.old_sealed, row.old_until = (row.sealed, at + OVERLAP) if keep_old else (None, None)
        row.sealed, row.hint, row.updated_at = seal(secret, settings), hint_of(secret), at
        _audit(session, "webhook.rotate", row, None, {"keep_old": keep_old})
        return EndpointView.of(row), secret


def test(tenant: str, endpoint_id: str, notice: Notice, settings: Settings) -> int:
    """Delivers a sample of a notice while the caller waits, and returns the status of the answer.

    Raises:
        RequestError: There is no such endpoint (404), it gave no answer, or several tests run (429).
    """
    with get_database().session(Scope.of(tenant)) as session:
        act = prepare_test(session, _find(session, tenant, endpoint_id), notice, settings)
    if not _tests.acquire(blocking=False):
        wait = {"retry-after": "5"}
        raise RequestError("other tests run now; try again.", reason="rate_limit_exceeded", status=429, headers=wait)
    try:
        (result,) = carry_out([act])
    finally:
        _tests.release()
    if result.status is None:
        raise RequestError(f"the endpoint was not reached: {result.fault}.", reason="endpoint_unreachable")
    return result.status


def _find(session: Session, tenant: str, endpoint_id: str) -> Receiver:
    try:
        row = receivers.find_receiver(session, tenant, endpoint_id)
    except NotFoundError:
        row = None
    if row is None or row.kind != WEBHOOK or row.id != endpoint_id:
        raise RequestError(
            f"there is no webhook endpoint {endpoint_id[:64]}.", reason="webhook_endpoint_not_found", status=404
        )
    return row


def _facts(row: Receiver) -> dict[str, object]:
    return {"name": row.name, "url": row.url, "notices": row.notices}


def _audit(
    session: Session, action: str, row: Receiver, before: dict[str, object] | None, after: dict[str, object] | None
) -> None:
    record_audit(session, current_actor(), action, row.id, before, after, tenant=row.tenant)
