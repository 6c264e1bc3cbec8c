"""Runs commands in a network namespace of their own, from which nothing but one server can be reached.

A new namespace has no device but its own loopback. A relay beside the command listens there at the server's port and
passes bytes on through a unix socket, which does not belong to a network; its other end, in the process of the test,
connects to the server. ``python other_network.py SOCKET PORT COMMAND…`` is the program inside.
"""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1


def can_be_left():
    """Whether this kernel lets a process leave the network of its user."""
    unshare = shutil.which("unshare")
    words = [unshare, "--map-root-user", "--net", "true"]
    return unshare is not None and subprocess.run(words, check=False, capture_output=True).returncode == 0


@contextmanager
def way_to(url):
    """Opens the way to a server; yields the words before a command that can reach this server and nothing else."""
    server = urlsplit(url)
    with tempfile.TemporaryDirectory(prefix="celora-way-") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = f"{folder}/server"
        listener.bind(path)
        listener.listen()
        accepting = relay(listener, lambda: socket.create_connection((server.hostname, server.port)))
        program = [sys.executable, __file__, path, str(server.port)]
        yield ["unshare", "--map-root-user", "--net", *program]
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


def relay(listener, connect):
    """Passes the bytes of each connection on to another one, on threads, until the listener is shut down."""

    def accept():
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=exchange, args=(client, connect), daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    return accepting


def exchange(client, connect):
    with suppress(OSError), client, connect() as other:
        back = threading.Thread(target=pass_on, args=(other, client), daemon=True)
        back.start()
        pass_on(client, other)
        back.join()


def pass_on(source, target):
    with suppress(OSError):
        while part := source.recv(1 << 16):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)


def unix_socket(path):
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    return client


def main(path, port, *command):
    """Open the relay in this namespace, and run a command beside it."""
    assert Path("/proc/net/dev").read_text().count(":") == 1, "this network has more than a loopback"
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        relay(listener, lambda: unix_socket(path))
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
