"""Listens at unix sockets in folders of any length, for the processes of this user alone."""

import os
import socket
import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

BACKLOG = 512
"""Connections that the kernel holds until they are taken; asyncio takes a full backlog for a connection."""
_PEER = struct.Struct("3i")


@contextmanager
def short_path(path: Path) -> Generator[str]:
    """Yield a path of the same place that is short enough for the address of a socket, which holds 107 bytes."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}" if Path("/proc/self/fd").is_dir() else str(path)
    finally:
        os.close(folder)


def listen(path: Path) -> socket.socket:
    """Listen at a path, which appears only once connections are taken, and for this user alone."""
    staged = path.with_name(f".{path.name}.new")
    staged.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    with short_path(staged) as place:
        listener.bind(place)
    staged.chmod(0o600)
    listener.listen(BACKLOG)
    staged.replace(path)
    return listener


def is_of_this_user(connection: socket.socket) -> bool:
    """Return whether the process at the other end runs as this user."""
    peer = _peer_of(connection)
    return peer is None or peer[1] == os.getuid()  # the mode of the socket and of its folder protect it


def listener_of(connection: socket.socket) -> int | None:
    """Return the id of the process that listens at the other end; None where the system does not tell."""
    peer = _peer_of(connection)
    return peer[0] if peer is not None else None


def _peer_of(connection: socket.socket) -> tuple[int, int] | None:
    """Return the process and the user at the other end, which the kernel noted at the connection."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    process, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return process, user
