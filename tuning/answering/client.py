"""Reads a client's request from a connection, sends its events, and notices when the client goes away."""

import contextlib
import socket
import threading

from .messages import REQUEST_BYTES, AnswerEvent, AnswerRequest, line_of

READ_S = 30.0
"""Seconds in which a client must have sent its request."""
WRITE_S = 10.0
"""Seconds that the host waits for a client that reads nothing; the client then counts as gone."""


class Client:
    """The other end of a connection.

    Args:
        connection: The connection, whose request has not been read yet.

    Attributes:
        gone: Set when the client has closed its end; its answer stops.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.gone = threading.Event()

    def read(self) -> AnswerRequest:
        """Read the request.

        Raises:
            OSError: The client is too slow, or gone.
            ValidationError: The line is no request.
        """
        self._connection.settimeout(READ_S)
        with self._connection.makefile("rb") as lines:
            return AnswerRequest.model_validate_json(lines.readline(REQUEST_BYTES))

    def send(self, event: AnswerEvent) -> None:
        """Send an event; a client that cannot be reached counts as gone."""
        try:
            self._connection.sendall(line_of(event))
        except OSError:
            self.gone.set()

    def wait_until_gone(self) -> None:
        """Wait for the end of the connection, from either side."""
        with contextlib.suppress(OSError):
            self._connection.settimeout(WRITE_S)
            while not self.gone.is_set():
                with contextlib.suppress(TimeoutError):
                    if not self._connection.recv(1):
                        break
        self.gone.set()
        self._connection.close()

    def close(self) -> None:
        """End the connection; the thread that waits on it then closes it."""
        self.gone.set()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
