"""Answers the requests of a unix socket one after another, with one model.

One request is answered at a time, as ``celora generate`` answers it: in a batch with others the last bits of the logits
differ, and with them a word here and there. The model runs on the main thread; each connection has a thread that reads
its request and then waits for the client's end.
"""

import contextlib
import socket
import threading
import time
import traceback
from collections.abc import Callable

from pydantic import ValidationError

from ...errors import CeloraError, DeviceError, HostMemoryError, OutOfMemoryError
from ...storage.unix_socket import is_of_this_user
from .client import Client
from .messages import AnswerRequest, Refused
from .waiting_line import WaitingLine

ACCEPT_AGAIN_S = 0.1
BROKEN = (DeviceError, OutOfMemoryError, HostMemoryError)
"""Errors after which the process is not used again."""

Answer = Callable[[AnswerRequest, Client], None]


class AnswerHost:
    """Takes connections, and answers their requests in order.

    Args:
        listener: A listening socket.
        answer: Answers one request.
        idle_s: Seconds without a request after which ``serve`` returns.
    """

    def __init__(self, listener: socket.socket, answer: Answer, idle_s: float) -> None:
        self._listener, self._answer, self._idle_s = listener, answer, idle_s
        self._line = WaitingLine[tuple[AnswerRequest, Client]](is_wanted=lambda item: not item[1].gone.is_set())

    def serve(self) -> None:
        """Answer requests until none came for the idle time."""
        threading.Thread(target=self._accept, daemon=True, name="accept").start()
        while (item := self._line.take(self._idle_s)) is not None:
            request, client = item
            try:
                if not client.gone.is_set():
                    self._answer_one(request, client)
            finally:
                client.close()
        self.close()

    def close(self) -> None:
        """Take no connection and no request any more; ``serve`` then returns."""
        self._line.close()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for connections

    def _answer_one(self, request: AnswerRequest, client: Client) -> None:
        try:
            self._answer(request, client)
        except CeloraError as error:
            client.send(Refused(code=error.code, message=error.message))
            if isinstance(error, BROKEN):
                client.close()
                raise
        except Exception:  # noqa: BLE001  (one request must not end the answers of the others)
            traceback.print_exc()
            client.send(Refused(code="internal", message="the answer failed; the log of the answer host says why."))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._line.closed:
                    return
                time.sleep(ACCEPT_AGAIN_S)  # too many open files, for example
                continue
            threading.Thread(target=self._take, args=(Client(connection), connection), daemon=True).start()

    def _take(self, client: Client, connection: socket.socket) -> None:
        """Put the request of a connection into the line, and watch the connection until its end."""
        try:
            if not is_of_this_user(connection):
                client.close()
                return
            request = client.read()
            if not self._line.put(request.tenant, (request, client)):
                if not self._line.closed:
                    client.send(Refused(code="busy", message="too many requests wait for an answer already."))
                client.close()
        except ValidationError:
            client.send(Refused(code="internal", message="the answer host and the API are of different versions."))
            client.close()
        except OSError:
            client.close()
        finally:
            client.wait_until_gone()
