"""Text without secrets: values that this process knows, passwords in URLs, and tokens by their shape are masked.

Logs pass here, and so does whatever a trainer says before it reaches the record or the queue: a dataset's row may hold
a token, and a library may print one. A likeness of a token is masked too; a value of a variable counts as a secret by
the variable's name (``HF_TOKEN``, ``PGPASSWORD``), so that no list of names has to be kept.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from .errors import StorageError
from .secrets import FILE, Secrets
from .settings import get_settings

MASK = "[secret masked]"
SHORTEST = 8
"""A shorter value is no secret to search for: it would mask words."""

SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{20,}"
    r"|sk-(?:(?:proj|ant|svcacct|admin|None|or)-[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{20,})"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Z])"
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,}"
    r"|xox[abprs]-[A-Za-z0-9-]{20,}|AIza[0-9A-Za-z_-]{35})"
    r"|-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY-----(?s:.*?-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY-----|.*)"
)
"""Tokens of the model hub, of hosted models, of AWS, GitHub, Slack and Google; private keys."""

_URL = re.compile(r"(?P<user>[a-zA-Z][a-zA-Z0-9+.-]{0,20}://[^\s/:@'\"]*:)(?P<password>[^\s/@'\"]+)@")
_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIAL|_AUTH$")
_NO_NAME = re.compile(r"_(?:FILE|PATH|DIR|HOME|SOCK|URL)$|^TOKENIZERS_")


class Redactor:
    """Masks known values, and what looks like a secret.

    Args:
        values: Secrets, as they are; those shorter than ``SHORTEST`` are left out.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        spellings = {spelling for value in values for spelling in (value, quote(value, safe=""), unquote(value))}
        known = sorted((one for one in spellings if len(one) >= SHORTEST), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def text(self, text: str) -> str:
        """The text with a mask for each secret.

        Example:
            ``Redactor().text("redis://:hunter22@host/0")`` is ``redis://:[secret masked]@host/0``.
        """
        if self._known is not None:
            text = self._known.sub(MASK, text)
        return SHAPES.sub(MASK, _URL.sub(rf"\g<user>{MASK}@", text))

    def data(self, value: Any) -> Any:
        """JSON-able data with every text in it masked; the keys of objects stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.data(one) for key, one in value.items()}  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, list | tuple):
            return [self.data(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
        return value


def is_secret(name: str, value: str) -> bool:
    """Whether a variable holds a secret: by its name, or because its value is a URL with a password.

    A proxy's URL is none: whoever fetches needs it.
    """
    by_name = bool(_NAME.search(name.upper())) and not _NO_NAME.search(name)
    return by_name or (bool(_URL.search(value)) and not name.lower().endswith("_proxy"))


def values_in(environment: Mapping[str, str]) -> set[str]:
    """The secrets among an environment's values: of a URL its password, of a login its password too."""
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
    """This process's redactor, made anew when the secrets' file has changed."""

    def __init__(self) -> None:
        self._made: tuple[Any, Redactor] | None = None

    def redactor(self) -> Redactor:
        settings = get_settings()
        key = (settings.home, _changed_at(settings.home / FILE))
        if self._made is None or self._made[0] != key:
            ours = {name.upper(): value for name, value in settings if isinstance(value, str)}
            self._made = key, Redactor(values_in({**os.environ, **ours}) | _stored(settings.home))
        return self._made[1]


_known = _Known()


def redactor() -> Redactor:
    """What this process knows to be secret: its environment's, its settings' and the stored secrets' values."""
    return _known.redactor()


def _changed_at(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _stored(home: Path) -> set[str]:
    secrets = Secrets(home)
    try:
        return {value for name in secrets.names() if (value := secrets.get(name))}
    except StorageError:  # whoever needs a secret is told; the log of that must be written
        return set()
