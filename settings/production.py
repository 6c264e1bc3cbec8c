"""Refuses, under ``CELORA_PROFILE=production``, servers without a password and passwords that are easily guessed.

Each secret is judged where it is used (the app for the broker, ``get_database`` for the record, Flower for its login),
so that a process is not refused for a secret that it does not need. A unix socket needs no password: the permissions of
its folder protect it.
"""

import os
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from ..errors import SettingsError
from .settings import Settings

SHORTEST = 12
EXAMPLES = frozenset({"password", "another_password", "broker_password", "database_password"})
"""The passwords of the examples in our own documents and deploy files, in lower case; a test compares."""


def require_broker(settings: Settings, *urls: str) -> None:
    """Refuse brokers and result backends without a good password; nothing is refused outside of production.

    Raises:
        SettingsError: A password is weak or missing; the message names the URL's server, the hint the next step.
    """
    if settings.profile != "production":
        return
    for part in [part for url in urls for part in url.split(";") if part]:
        _judge(part.removeprefix("db+"), "the broker or result backend", "CELORA_BROKER_URL=rediss://:PASSWORD@host/0")


def require_database(settings: Settings) -> None:
    """Refuse a record that no setting names, or a server without a good password.

    Raises:
        SettingsError: The record is refused; the message gives the reason, the hint the next step.
    """
    if settings.profile != "production":
        return
    if not settings.database_url:
        raise SettingsError(
            "CELORA_PROFILE is production and CELORA_DATABASE_URL is not set: the record would be a file here.",
            hint="Set it to postgresql://…, or to sqlite:////path/celora.db where one machine is meant to be all.",
        )
    _judge(settings.database_url, "the record", "CELORA_DATABASE_URL=postgresql://user:PASSWORD@host/celora")


def require_login(settings: Settings, login: str) -> None:
    """Refuse a Flower without a login of its own, or with one that is easily guessed.

    Args:
        settings: The installation's settings.
        login: ``user:password``, as in ``CELORA_FLOWER_AUTH``; empty where it is not set.

    Raises:
        SettingsError: The login is refused; the message gives the reason.
    """
    if settings.profile != "production":
        return
    user, _, password = login.partition(":")
    if why := weakness(password, user):
        raise SettingsError(
            f"CELORA_PROFILE is production and Flower's login {why}.",
            hint="Set CELORA_FLOWER_AUTH=user:password; a password: python3 -c 'import secrets; "
            "print(secrets.token_urlsafe(24))'",
        )


def weakness(password: str, user: str = "") -> str:
    """Describe the weakness of a password, as the end of a sentence; empty where it has none.

    A password is weak when it is short, the user's own name, or one of our examples. A list of common passwords would
    never be complete; the length rules out most of them.
    """
    plain = unquote(password)
    if not plain:
        return "has no password"
    if plain.lower() == user.lower() or plain.lower() in EXAMPLES:
        return "has a password that anybody would try first"
    if len(plain) < SHORTEST:
        return f"has a password of fewer than {SHORTEST} letters"
    return ""


def _judge(url: str, what: str, example: str) -> None:
    parts = urlsplit(url)
    password = parts.password or ""
    if not password and parts.scheme.startswith("postgres"):
        password = os.environ.get("PGPASSWORD", "")
        if not password and _is_proven(parts):
            return
    if not _is_local(parts) and (why := weakness(password, parts.username or "")):
        raise SettingsError(
            f"CELORA_PROFILE is production and {what} at {parts.scheme}://{parts.hostname or ''} {why}.",
            hint=f"Give it one of its own, on the server and here: {example}",
        )


def _is_local(parts: SplitResult) -> bool:
    """Return whether the URL names a file or a unix socket."""
    host = parse_qs(parts.query).get("host", [""])[0]
    socket = parts.scheme.endswith(("+socket", "unix")) or host.startswith("/") or unquote(parts.netloc).startswith("/")
    return socket or parts.scheme.partition("+")[0] in ("sqlite", "file")


def _is_proven(parts: SplitResult) -> bool:
    """Return whether a password file, a certificate or a service of libpq identifies celora to PostgreSQL."""
    named = set(parse_qs(parts.query)) & {"passfile", "sslcert", "service"}
    return bool(named or {"PGPASSFILE", "PGSSLCERT", "PGSERVICE"} & set(os.environ))
