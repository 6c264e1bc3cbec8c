"""Reads the facts of a Redis or Valkey server, once and with a short timeout, for `celora doctor`."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.retry import Retry

from ..errors import UnavailableError
from ..settings.loopback import is_loopback
from ..settings.production import weakness
from ..settings.redaction import without_password

PATIENCE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """The facts of a Redis or Valkey server.

    Attributes:
        shown: Its URL without the password.
        host: Its host; empty for a unix socket.
        socket: Path of the unix socket, or empty.
        open: True where it answers commands without a password.
        weak: The fault of our password as the end of a sentence; empty where there is none.
        info: Its INFO; empty where our user may not read it.
        save: Its rule for snapshots; None where it may not be read (managed servers).
    """

    shown: str
    host: str
    socket: str
    open: bool
    weak: str
    info: dict[str, Any]
    save: str | None

    @property
    def local(self) -> bool:
        """Return whether the address can mean this machine only."""
        return bool(self.socket) or is_loopback(self.host)


def look_at(url: str) -> Server:
    """Connect to a server and read its facts.

    Raises:
        UnavailableError: The server does not answer, refuses the password, or can't write its file.
    """
    shown = without_password(url)
    try:
        with client_of(url) as client:
            client.ping()  # pyright: ignore[reportUnknownMemberType]
            told, save = _info(client), _save_rule(client)
            options: dict[str, Any] = dict(client.connection_pool.connection_kwargs)
            unlocked = _answers_without_password(client)
    except (ResponseError, AuthenticationError) as error:
        if "MISCONF" in str(error):
            raise UnavailableError(
                f"the server at {shown} takes no messages, since it can't write its file ({str(error).rstrip('.')}).",
                hint="Free space on its disk; it then takes messages again by itself.",
            ) from error
        raise UnavailableError(
            f"the server at {shown} refuses us ({str(error).rstrip('.')}).",
            hint="Put the right user and password into CELORA_BROKER_URL: redis://:PASSWORD@HOST:6379/0.",
        ) from error
    except (RedisError, OSError, ValueError) as error:
        raise UnavailableError(
            f"the server at {shown} does not answer ({str(error).rstrip('.')}).",
            hint="Start it, or set CELORA_BROKER_URL (CELORA_RESULT_BACKEND) to where it runs.",
        ) from error
    socket = str(options.get("path", ""))
    return Server(
        shown=shown,
        host="" if socket else str(options.get("host", "localhost")),
        socket=socket,
        open=unlocked,
        weak=weakness(str(options.get("password") or ""), str(options.get("username") or "")),
        info=told,
        save=save,
    )


def client_of(url: str, patience_s: float = PATIENCE_S) -> "redis.Redis":
    """Make a client that tries once, with a short timeout; kombu's spellings of a URL are understood, too."""
    parts = urlsplit(url)
    scheme = {"valkey": "redis", "valkeys": "rediss", "redis+socket": "unix"}.get(parts.scheme, parts.scheme)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    options: dict[str, Any] = {}
    if scheme == "unix":
        options["db"] = int(query.get("virtual_host", query.get("db", "0")).strip("/") or 0)
    if required := query.get("ssl_cert_reqs"):  # kombu takes ssl's names, redis-py only their last word
        options["ssl_cert_reqs"] = required.lower().removeprefix("cert_")
    plain = f"{scheme}://{parts.netloc}{parts.path}"
    return redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
        plain,
        socket_timeout=patience_s,
        socket_connect_timeout=patience_s,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        **options,
    )


def _answers_without_password(client: "redis.Redis") -> bool:
    known: dict[str, Any] = dict(client.connection_pool.connection_kwargs)
    for name in ("username", "password", "credential_provider"):
        known.pop(name, None)
    pool = redis.ConnectionPool(connection_class=client.connection_pool.connection_class, **known)
    try:
        return bool(redis.Redis(connection_pool=pool).ping())  # pyright: ignore[reportUnknownMemberType]
    except RedisError:  # NOAUTH, or protected mode
        return False
    finally:
        pool.disconnect()


def _info(client: "redis.Redis") -> dict[str, Any]:
    try:
        told: Any = client.info()  # pyright: ignore[reportUnknownMemberType]
    except NoPermissionError:
        return {}
    return dict(told)


def _save_rule(client: "redis.Redis") -> str | None:
    try:
        told: Any = client.config_get("save")  # pyright: ignore[reportUnknownMemberType]
    except ResponseError:
        return None
    return str(told.get("save", ""))
