"""Finds ports of the loopback on which a process of the installation may listen."""

import socket

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Check that no process listens on this port; a connection that is being closed there does not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Find a free port; another program may take it before the caller listens."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
