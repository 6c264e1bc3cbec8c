"""Masks secrets in text: values that this process knows, passwords in URLs, and tokens by their shape.

Logs pass through this module, and so does all output of a trainer before it reaches the record or the queue: a
dataset's row may hold a token, and a library may print one. Text that resembles a token is masked too. A value of a
variable counts as a secret by the variable's name (``HF_TOKEN``, ``PGPASSWORD``), so that no list of names is needed.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ..errors import StorageError
from . import secret_patterns
from .secrets import FILE, TENANTS, all_values
from .settings import get_settings

MASK = "[secret masked]"
SHORTEST = 8
"""A shorter value is no secret to search for: it would mask words."""

_URL = re.compile(r"(?P<user>[a-zA-Z][a-zA-Z0-9+.-]{0,20}://[^\s/:@'\"]*:)(?P<password>[^\s/@'\"]+)@")
_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIAL|_AUTH$")
_NO_NAME = re.compile(r"_(?:FILE|PATH|DIR|HOME|SOCK|URL)$|^TOKENIZERS_")


class Redactor:
    """Masks known values, and text that resembles a secret.

    Args:
        values: Secrets, as they are; those shorter than ``SHORTEST`` are left out.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        spellings = {spelling for value in values for spelling in (value, quote(value, safe=""), unquote(value))}
        known = sorted((one for one in spellings if len(one) >= SHORTEST), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def text(self, text: str) -> str:
        """Replace each secret in a text by a mask.

        Example:
            ``Redactor().text("redis://:hunter22@host/0")`` is ``redis://:[secret masked]@host/0``.
        """
        if self._known is not None:
            text = self._known.sub(MASK, text)
        return secret_patterns.SECRET.sub(MASK, _URL.sub(rf"\g<user>{MASK}@", text))

    def data(self, value: Any) -> Any:
        """Mask every text in JSON-able data; the keys of objects stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.data(one) for key, one in value.items()}  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, list | tuple):
            return [self.data(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
        return value


def without_password(url: str) -> str:
    """Return a URL without its user and password, as it may be shown.

    Example:
        ``without_password("redis://:hunter22@host/0")`` is ``redis://host/0``.
    """
    scheme, found, rest = url.partition("://")
    return f"{scheme}://{rest.rsplit('@', 1)[-1]}" if found else url


def is_secret(name: str, value: str) -> bool:
    """Return whether a variable holds a secret: by its name, or because its value is a URL with a password.

    A proxy's URL is no secret, since every process that fetches needs it.
    """
    by_name = bool(_NAME.search(name.upper())) and not _NO_NAME.search(name)
    return by_name or (bool(_URL.search(value)) and not name.lower().endswith("_proxy"))


def values_in(environment: Mapping[str, str]) -> set[str]:
    """Collect the secrets among an environment's values: the password of a URL, a login and its password."""
    found: set[str] = set()
    for name, value in environment.items():
        passwords = {match["password"] for match in _URL.finditer(value)}
        found |= passwords
        if not passwords and is_secret(name, value):
            found.add(value)
            if name.endswith("_AUTH"):
                found.add(value.partition(":")[2])
    return found


class _Known:
    """Holds this process's redactor, and makes a new one when a file of secrets has changed."""

    def __init__(self) -> None:
        self._made: tuple[Any, Redactor] | None = None

    def redactor(self) -> Redactor:
        settings = get_settings()
        key = (settings.home, _changed_at(settings.home / FILE), _changed_at(settings.home / TENANTS))
        if self._made is None or self._made[0] != key:
            ours = {name.upper(): value for name, value in settings if isinstance(value, str)}
            self._made = key, Redactor(values_in({**os.environ, **ours}) | _stored(settings.home))
        return self._made[1]


_known = _Known()


def redactor() -> Redactor:
    """Return the redactor of all secrets in this process's environment and settings, and of the stored secrets."""
    return _known.redactor()


def _changed_at(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _stored(home: Path) -> set[str]:
    try:
        return all_values(home)
    except StorageError:  # code that needs a secret gets the error; the log of the error must be written
        return set()
