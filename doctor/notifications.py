"""Checks notifications for `celora doctor`: the packages that send, the secrets of receivers, those that are off."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..errors import CeloraError
from ..models.notifications.receivers import WEBHOOK
from ..models.tables import Receiver
from ..settings.sealing import NAME, unseal
from ..settings.secrets import Secrets
from ..settings.settings import Settings
from .finding import Finding, fail, guarded, ok, warn

NEEDED = {WEBHOOK: ("standardwebhooks", "cryptography")}
OF_CHANNELS = ("apprise", "cryptography")
SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A receiver as the checks need it, read from the record."""

    id: str
    kind: str
    tenant: str
    sealed: tuple[str, ...]
    off_reason: str | None
    off: bool


def notifications(session: Session, settings: Settings) -> Iterator[Finding]:
    """Check the receivers of all tenants; an installation without any needs nothing."""
    rows = session.scalars(select(Receiver).order_by(Receiver.tenant, Receiver.created_at, Receiver.id)).all()
    listed = [
        Listed(
            id=row.id,
            kind=row.kind,
            tenant=row.tenant,
            sealed=tuple(filter(None, [row.sealed, row.old_sealed])),
            off=row.off_at is not None,
            off_reason=row.off_reason,
        )
        for row in rows
    ]
    if not listed:
        yield ok("notify", "nobody is notified: no webhook endpoint and no channel")
        return
    yield guarded("notify.sender", partial(sender, listed))
    yield guarded("notify.secrets", partial(secrets, listed, settings))
    yield guarded("notify.receivers", partial(receivers, listed))


def sender(listed: list[Listed]) -> Finding:
    """Check that what signs and sends is installed here; control workers and the API need it."""
    check = "notify.sender"
    wanted = {package for one in listed for package in NEEDED.get(one.kind, OF_CHANNELS)}
    missing = sorted(name for name in wanted if find_spec(name) is None)
    if missing:
        return fail(
            check,
            f"{', '.join(missing)} not installed here: a control worker of this machine delivers nothing",
            'Run `pip install "celora[notify]"` on every machine with a control worker or the API.',
        )
    return ok(check, f"{len(listed)} receivers, and what sends to them is installed")


def secrets(listed: list[Listed], settings: Settings) -> Finding:
    """Check that this machine can decrypt the signing secrets and channels of the record."""
    check = "notify.secrets"
    has_key = bool(settings.record_secret) or NAME in Secrets(settings.home).names()  # a decryption would make one
    unreadable = [one.id for one in listed if not has_key or not _is_readable(one, settings)]
    if unreadable:
        fix = f"Set {NAME} to the value of the machine that made them: on the API and on all control workers the same."
        return fail(check, f"{len(unreadable)} of {len(listed)} can't be decrypted here: {_some(unreadable)}", fix)
    return ok(check, f"{len(listed)} can be decrypted here")


def _is_readable(one: Listed, settings: Settings) -> bool:
    try:
        for sealed in one.sealed:
            unseal(sealed, settings)
    except CeloraError:
        return False
    return True


def receivers(listed: list[Listed]) -> Finding:
    """Name the receivers that were switched off."""
    check = "notify.receivers"
    off = [one for one in listed if one.off]
    if off:
        words = _some([f"{one.id} of {one.tenant} ({one.off_reason})" for one in off])
        fix = f"Mend its receiver, then `celora notify on {off[0].id} --tenant {off[0].tenant}`."
        return warn(check, f"switched off: {words}", fix)
    return ok(check, f"{len(listed)}, none switched off")


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
