"""Connects to a web server at the address that was judged, and judges addresses.

A name is resolved once, each of its addresses is judged, and the connection goes to one of these very addresses. A name
that resolves to another address a moment later gains nothing.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Generator
from urllib.parse import SplitResult

from ..errors import DataError, UnavailableError

WEB = {"https": 443, "http": 80}
"""The schemes of web servers, with their usual ports."""
Connection = http.client.HTTPConnection
"""A connection, plain or by TLS."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""The prefix below which a gateway translates IPv6 into IPv4 (RFC 6052)."""
_ISATAP = (0x00005EFE, 0x02005EFE)
"""The third quarter of an address that stands for an IPv4 one in a tunnel by ISATAP (RFC 5214)."""
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"),
    )
)
"""Metadata services beside 169.254.169.254: of Alibaba, Azure, Oracle, and by IPv6 of AWS and Google."""
_COMPATIBLE = ipaddress.IPv6Network("::/96")
"""The deprecated form ``::192.0.2.1`` (RFC 4291, section 2.5.5.1)."""


class PrivateAddressError(DataError):
    """A host has an address to which no connection is made.

    Args:
        host: The host's name.
        address: The address.
        hint: The next step.
    """

    def __init__(self, host: str, address: str, hint: str) -> None:
        self.host = host
        super().__init__(f"the host {host} has the address {address}, which is no public one.", hint=hint)


def connect(parts: SplitResult, *, listed: bool, hint: str, timeout_s: float) -> Connection:
    """Connect to the host of a URL, at an address that was judged.

    Args:
        parts: The URL, ``http`` or ``https``.
        listed: True if an operator listed the very host, which then may have a private address.
        hint: The next step where the address is refused.
        timeout_s: Seconds that the connection, TLS included, and each later operation on it, may take.

    Raises:
        PrivateAddressError: One of the host's addresses is refused.
        UnavailableError: The host has no address.
        OSError: The host cannot be reached, or its certificate is refused.
    """
    host, port = parts.hostname or "", parts.port or WEB[parts.scheme]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnavailableError(f"the host {host} has no address ({error}).", hint="Look at its spelling.") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not may_connect(address, listed=listed):
            raise PrivateAddressError(host, address, hint)
    ends = time.monotonic() + timeout_s
    raw = _first(addresses, port, ends)
    raw.settimeout(timeout_s)
    connection = Connection(host, port, timeout=timeout_s)
    try:
        secure = parts.scheme == "https"
        with cut_after(raw, ends - time.monotonic()):
            connection.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=host) if secure else raw
    except BaseException:
        raw.close()
        raise
    return connection


@contextlib.contextmanager
def cut_after(connected: socket.socket, seconds: float) -> Generator[None]:
    """Cut a connection unless the block ends in time: a socket's own time-out begins anew with each byte.

    Raises:
        TimeoutError: The block ended only when the connection was cut; its reader may have taken that for an end.
    """
    late = threading.Event()

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError("it took too long")


def _first(addresses: list[str], port: int, ends: float) -> socket.socket:
    """Connect to the first of the judged addresses that answers; a machine may have no way to those of IPv6.

    All addresses share the time, since a stranger's name may have a hundred of them that never answer.
    """
    fault = OSError("the host has no address")
    for address in addresses:
        left_s = ends - time.monotonic()
        if left_s <= 0:
            break
        try:
            return socket.create_connection((address, port), timeout=left_s)
        except OSError as error:
            fault = error
    raise fault


def may_connect(address: str, *, listed: bool) -> bool:
    """Check if an address may be connected to.

    Public addresses may, private ones only where an operator listed the very host, a cloud's metadata address never. An
    IPv6 address that stands for an IPv4 one is judged as that one, too.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    judged = [*_embedded(found), *([] if _is_translated(found) else [found])]
    return all(_may_connect(one, listed=listed) for one in judged)


def _may_connect(found: ipaddress.IPv4Address | ipaddress.IPv6Address, *, listed: bool) -> bool:
    if found in _METADATA:
        return False
    if found.is_loopback:  # ::1 counts as reserved, too
        return listed
    if found.is_link_local or found.is_multicast or found.is_unspecified or found.is_reserved:
        return False
    return found.is_global or listed


def _embedded(found: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """List the IPv4 addresses for which an IPv6 address stands; none for most."""
    if isinstance(found, ipaddress.IPv4Address):
        return []
    last = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    inner = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
    ends_in_one = found in _NAT64 or (int(found) >> 32) & 0xFFFFFFFF in _ISATAP
    inner += [last] if ends_in_one or _is_compatible(found) else []
    return [one for one in inner if one is not None]


def _is_translated(found: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether an address is nothing but another form of an IPv4 one, whose judgement then suffices."""
    if isinstance(found, ipaddress.IPv4Address):
        return False
    inner = (found.ipv4_mapped, found.sixtofour, found.teredo)
    return found in _NAT64 or _is_compatible(found) or any(one is not None for one in inner)


def _is_compatible(found: ipaddress.IPv6Address) -> bool:
    return found in _COMPATIBLE and int(found) > 1
