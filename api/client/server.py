"""Reads the address of a server, and decides whether a key may travel there."""

from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from ...errors import AccessError, SettingsError
from ...settings.loopback import is_loopback

PLAIN_HTTP = "CELORA_PLAIN_HTTP"
"""The variable by which a person permits a key on a connection without encryption."""
API_KEY = "CELORA_API_KEY"
FORM = "Write https://HOST, with or without /v1 at its end."


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server and the key for it.

    Attributes:
        url: Its URL without ``/v1`` and without a slash at its end.
        key: The key; empty for a server on this machine that has no keys yet.
        local: True if it is on this machine.
    """

    url: str
    key: str = field(repr=False)
    local: bool


def parse_server(url: str, key: str, *, plain_http: bool = False, variable: str = API_KEY) -> Server:
    """Read a server's URL as a person writes it.

    Args:
        url: The URL, with or without ``/v1`` at its end.
        key: The key; empty for none.
        plain_http: True if the key may travel without encryption.
        variable: The name of the key's variable, for sentences.

    Raises:
        SettingsError: The URL is none, or holds what does not belong there; or the key is none.
        AccessError: The key would travel to another machine without encryption.
    """
    parts = _parts(url.strip(), variable)
    local = is_loopback(parts.hostname or "")
    if not all("!" <= letter <= "~" for letter in key):
        raise SettingsError(f"{variable} holds characters that no key has.", hint="Copy the key again, without spaces.")
    if parts.scheme == "http" and key and not local and not plain_http:
        raise AccessError(
            f"the key would travel to {parts.hostname} without encryption, and is not sent.",
            hint=f"Write https://, or permit it with {PLAIN_HTTP}=1 where nobody else can read the network.",
        )
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return Server(url=f"{parts.scheme}://{parts.netloc}{path}", key=key, local=local)


def _parts(url: str, variable: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        valid, parts = False, urlsplit("")
    if valid and (parts.username is not None or parts.password is not None):
        raise SettingsError("the server's URL holds a name or a password.", hint=f"The key belongs in {variable}.")
    if not valid or parts.query or parts.fragment or not url.isprintable() or " " in url:
        raise SettingsError(f"{url!r} is no URL of a server.", hint=FORM)
    return parts
