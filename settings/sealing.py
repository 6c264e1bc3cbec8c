"""Encrypts the secrets that the record holds, such as the signing secrets of webhooks.

The key comes from ``CELORA_RECORD_SECRET``, or from a secret that the first process makes in the home. A copy of the
record alone therefore holds no signing secret. Machines that share a record need the same ``CELORA_RECORD_SECRET``; an
installation with ``CELORA_PROFILE=production`` makes none by itself.
"""

import base64
import hashlib
import secrets
from typing import TYPE_CHECKING

from ..errors import SettingsError, UnavailableError
from .secrets import Secrets
from .settings import Settings

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

NAME = "CELORA_RECORD_SECRET"
_PURPOSE = b"celora: secrets of the record\0"


def seal(text: str, settings: Settings) -> str:
    """Encrypt a text for the record (Fernet: AES-128 in CBC mode, with HMAC-SHA-256).

    Raises:
        UnavailableError: ``cryptography`` is not installed, or a production installation has no secret.
    """
    return _cipher(settings).encrypt(text.encode()).decode()


def unseal(sealed: str, settings: Settings) -> str:
    """Decrypt a text of the record.

    Raises:
        SettingsError: It was encrypted with another key.
        UnavailableError: ``cryptography`` is not installed.
    """
    cipher = _cipher(settings)
    from cryptography.fernet import InvalidToken  # noqa: PLC0415  (of an extra)

    try:
        return cipher.decrypt(sealed.encode()).decode()
    except InvalidToken:
        raise SettingsError(
            "a secret of the record was encrypted with another key than this machine has.",
            hint=f"Set {NAME} to the same value on every machine: that of secrets.json where the secret was made.",
        ) from None


def _cipher(settings: Settings) -> "Fernet":
    try:
        from cryptography.fernet import Fernet  # noqa: PLC0415  (of an extra)
    except ImportError as error:
        raise UnavailableError(
            "encrypting secrets needs a part that is not installed.", hint="Run: pip install 'celora[notify]'"
        ) from error
    if not settings.record_secret and settings.profile == "production":  # the home of a container is lost with it
        raise UnavailableError(
            f"webhooks and channels need {NAME} where CELORA_PROFILE is production.",
            hint="Set it to the same random text of at least 32 characters for the API and all workers.",
        )
    secret = settings.record_secret or Secrets(settings.home).obtain(NAME, lambda: secrets.token_urlsafe(32))
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(_PURPOSE + secret.encode()).digest()))
