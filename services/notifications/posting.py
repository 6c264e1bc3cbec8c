"""Posts a message to the address of a webhook, which a stranger chose.

The address is judged when it is given and again at each delivery, after its name was resolved, and the connection goes
to the address that was judged. No redirect is followed and no body of an answer is read: of an answer only the status
is known. Private addresses and plain http are for hosts that an operator lists; the address of a cloud's metadata is
refused in any case. No fault names an address, since a tenant reads the faults.
"""

import http.client
import socket
import ssl
import time
import unicodedata
from collections.abc import Collection, Mapping
from contextlib import closing
from urllib.parse import SplitResult, urlsplit

from ...errors import RequestError, UnavailableError
from ...models.notifications.deliveries import Try
from ...tuning.web_connection import WEB, PrivateAddressError, connect, cut_after, may_connect

POST_S = 10.0
"""Seconds within which an answer must have come, from the resolution of the name on."""
LONGEST_URL = 2000
_SPACE = ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp")
_NO_PUBLIC = "its host has no public address"


def check_url(url: str, hosts: Collection[str]) -> SplitResult:
    """Check that webhooks may be sent to a URL, as far as that is known without its name being resolved.

    Args:
        url: The address.
        hosts: The hosts that an operator lists (``CELORA_WEBHOOK_HOSTS``).

    Raises:
        RequestError: It is no URL, has a user or a fragment, needs to be listed, or its address is refused.
    """
    if len(url) > LONGEST_URL or any(unicodedata.category(letter) in _SPACE for letter in url) or "\\" in url:
        raise _refused("it is no URL of at most 2,000 characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _refused("it is no URL") from None
    if parts.scheme not in WEB or not host or port == 0:
        raise _refused("it must be https://HOST/PATH")
    if not (parts.path + parts.query).isascii():
        raise _refused("its path or query must be percent-encoded")
    if parts.username is not None or parts.password is not None or "#" in url:
        raise _refused("it has a user, a password or a fragment")
    listed = is_listed(parts, hosts)
    if parts.scheme == "http" and not listed:
        raise _refused("it must begin with https://")
    if not all(may_connect(address, listed=listed) for address in _numeric(host)):
        raise _refused(_NO_PUBLIC)
    return parts


def is_listed(parts: SplitResult, hosts: Collection[str]) -> bool:
    """Return whether an operator lists the very host of a URL, with its port or with every port."""
    host = (parts.hostname or "").lower()
    bracketed = f"[{host}]" if ":" in host else host
    port = parts.port or WEB[parts.scheme]
    return not {host, bracketed, f"{bracketed}:{port}"}.isdisjoint(name.lower() for name in hosts)


def post(url: str, body: bytes, headers: Mapping[str, str], hosts: Collection[str]) -> Try:
    """Post a message and return the result; every fault is a result.

    Args:
        url: The address.
        body: The message.
        headers: Its signature and type.
        hosts: The hosts that an operator lists.
    """
    began, status, fault = time.monotonic(), None, ""
    try:
        parts = check_url(url, hosts)
        status = _post(parts, body, headers, listed=is_listed(parts, hosts))
    except RequestError as error:
        fault = error.message.removeprefix("url: ").rstrip(".")
    except PrivateAddressError:
        fault = _NO_PUBLIC
    except UnavailableError:
        fault = "its host has no address"
    except ssl.SSLError as error:
        fault = f"TLS failed ({error.reason or 'no reason given'})"
    except (OSError, http.client.HTTPException, ValueError):
        fault = "it cannot be reached, or did not answer in time"
    return Try(status=status, fault=fault or _fault_of(status), seconds=time.monotonic() - began)


def _post(parts: SplitResult, body: bytes, headers: Mapping[str, str], *, listed: bool) -> int:
    ends = time.monotonic() + POST_S
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    sent = {"Content-Type": "application/json", "User-Agent": "celora", "Connection": "close", **headers}
    connection = connect(parts, listed=listed, hint="", timeout_s=POST_S)
    with closing(connection), cut_after(connection.sock, max(0.0, ends - time.monotonic())):
        connection.request("POST", path, body, sent)
        with closing(connection.getresponse()) as answer:
            status = answer.status
    return status


def _fault_of(status: int | None) -> str:
    if status is not None and http.HTTPStatus.OK <= status < http.HTTPStatus.MULTIPLE_CHOICES:
        return ""
    if status is not None and status < http.HTTPStatus.BAD_REQUEST:
        return f"it answered {status}; redirects are not followed"
    return f"it answered {status}"


def _numeric(host: str) -> list[str]:
    """List the addresses that a host is in figures, whatever their form; none for a name."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return []
    return [str(entry[4][0]) for entry in found]


def _refused(why: str) -> RequestError:
    return RequestError(f"url: {why}.", reason="invalid_url", param="url")
