"""Makes signing secrets, and signs messages by the scheme of Standard Webhooks (https://www.standardwebhooks.com).

A message is signed with the present secret, and for a day after a rotation with the one before as well.
"""

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime

from ...errors import UnavailableError
from ...models.tables import Receiver
from ...settings.sealing import unseal
from ...settings.settings import Settings

PREFIX = "whsec_"
SECRET_BYTES = 32
SHOWN = 4
"""Characters of a secret that are shown."""


def new_secret() -> str:
    """Make a signing secret from the system's random numbers."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def hint_of(secret: str) -> str:
    """Return the end of a secret, by which people tell secrets apart."""
    return secret[-SHOWN:]


def secrets_of(receiver: Receiver, settings: Settings, at: datetime) -> list[str]:
    """Return the secrets that sign a message at that time.

    Raises:
        SettingsError: They were encrypted with another machine's key.
    """
    sealed = [receiver.sealed]
    if receiver.old_sealed is not None and receiver.old_until is not None and receiver.old_until > at:
        sealed.append(receiver.old_sealed)
    return [unseal(one, settings) for one in sealed]


def headers_of(event_id: str, at: datetime, body: bytes, signing: Sequence[str]) -> dict[str, str]:
    """Return the headers that identify and sign a message.

    Raises:
        UnavailableError: ``standardwebhooks`` is not installed.
    """
    try:
        from standardwebhooks import Webhook  # noqa: PLC0415  (of the extra notify)
    except ImportError as error:
        raise UnavailableError(
            "signing webhooks needs a part that is not installed.", hint="Run: pip install 'celora[notify]'"
        ) from error
    signatures = [Webhook(secret).sign(event_id, at, body.decode()) for secret in signing]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
