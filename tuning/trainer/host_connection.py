"""Reads the lines of a client of the trainer host, with the descriptor that comes along, and writes lines to it."""

import array
import contextlib
import os
import socket
import struct
import threading

from pydantic import BaseModel

from .host_messages import line_of

READ_S = 30.0
"""Seconds in which a client must have sent its request."""
WRITE_S = 30
"""Seconds that the host waits for a client that reads nothing; the client then counts as gone."""
LINE_BYTES = 64 * 2**20
"""Size of the largest line; the prompts of a generation are one."""
_ANCILLARY_BYTES = socket.CMSG_SPACE(4 * 4)
"""Room for four descriptors of 4 bytes, so that a wrong number of them is seen."""


class Connection:
    """The host's end of a connection.

    Args:
        connected: The connected socket; this object owns and closes it.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._buffer = bytearray()
        self._descriptors: list[int] = []
        self._lost = threading.Event()
        self.lock = threading.RLock()
        """Lock of a line."""
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", WRITE_S, 0))

    def read_line(self) -> bytes:
        """Read a line, with its end; empty at the end of the connection.

        Raises:
            OSError: The line is too long, or the client is slower than ``expect_within``.
        """
        end = self._buffer.find(b"\n")
        while end < 0:
            if len(self._buffer) > LINE_BYTES:
                raise OSError("the client sent a line that is too long")
            # not socket.recv_fds, which ignores its flags
            data, ancillary, _, _ = self._socket.recvmsg(1 << 16, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
            for level, kind, sent in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._descriptors += array.array("i", sent[: len(sent) // 4 * 4])
            if not data:
                return b""
            before = len(self._buffer)
            self._buffer += data
            end = self._buffer.find(b"\n", before)
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line

    def expect_within(self, seconds: float | None) -> None:
        """Set the time in which a line must arrive; None: any time."""
        whole = int(seconds or 0)
        fraction = int(((seconds or 0) - whole) * 1e6)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", whole, fraction))

    def take_descriptor(self) -> int | None:
        """Return the one descriptor that the client has sent so far; None, and all are closed, for another number."""
        taken, self._descriptors = self._descriptors, []
        if len(taken) == 1:
            return taken[0]
        for descriptor in taken:
            os.close(descriptor)
        return None

    @property
    def lost(self) -> bool:
        """Return whether the client can no longer be reached."""
        return self._lost.is_set()

    def write(self, line: bytes) -> bool:
        """Write one whole line; where the client cannot be reached, end the connection and return False."""
        with self.lock:
            if not self.lost:
                try:
                    self._socket.sendall(line)
                except OSError:
                    self._lost.set()
                    self.end()
            return not self.lost

    def send(self, message: BaseModel) -> bool:
        """Write a message as a line; return False where the client cannot be reached."""
        return self.write(line_of(message))

    def end(self) -> None:
        """End the connection for both sides; the thread that reads it gets the end of file."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket and every descriptor that nobody has taken."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        self.end()
        self._socket.close()
