"""Decides whether a host's name or address is this machine's own."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine itself; brackets around an IPv6 address are left out.

    A name other than ``localhost`` is not looked up: whoever answers the look-up could claim to be this machine.
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
