"""Limits how long a connection may take for the head of a request, and for the rest of a body that nobody reads.

Uvicorn limits only the pause between two requests. A client that sends a head letter by letter, or goes on sending a
body after its request was refused, would keep a connection, and thus a file descriptor, for ever. The body of a request
that is being served has limits of its own (``body.chunks``).

Unusual: it extends uvicorn's protocol on ``h11``, so uvicorn does not take the faster ``httptools`` where that is
installed.
"""

import asyncio
from enum import Enum

import h11
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from .answers import envelope
from .requests import HEADER, new_request_id

HEAD_S = 20.0
"""Seconds in which the head of a request must have arrived."""
LINGER_S = 5.0
"""Seconds for which the rest of a refused body is read and dropped. A connection that is closed with unread bytes is
reset, and the reset could overtake the answer."""


class Phase(Enum):
    """The state of a connection, as far as a limit depends on it."""

    IDLE = "between two requests"
    HEAD = "the head of a request arrives, or nothing has arrived yet"
    SERVED = "a request is being served"
    LINGERING = "the answer is sent, and the rest of the body arrives"


class LimitedConnection(H11Protocol):
    """Serves one connection within the limits of this module, and refuses what is no HTTP in the envelope of errors."""

    _phase = Phase.IDLE
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Go on with the next request, or with the rest of this one's body."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the limits with the connection."""
        super().connection_lost(exc)
        self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are no HTTP request; within a request, the connection ends without an answer."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        self._refuse(envelope(400, f"this is no HTTP request: {msg}", code="bad_request"))

    def _refuse(self, answer: Response) -> None:
        headers = [*answer.raw_headers, (HEADER.encode(), new_request_id().encode()), (b"connection", b"close")]
        for event in (
            h11.Response(status_code=answer.status_code, headers=headers),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        """Set the timer of the phase that the connection is in, unless it runs already."""
        phase = self._present_phase()
        if phase is self._phase:
            return
        self._phase = phase
        self._stop_timer()
        limit_s = {Phase.HEAD: HEAD_S, Phase.LINGERING: LINGER_S}.get(phase)
        if limit_s is not None:
            self._timer = self.loop.call_later(limit_s, self._end)

    def _present_phase(self) -> Phase:
        began = self.cycle is not None  # pyright: ignore[reportUnnecessaryComparison]  (uvicorn's type leaves None out)
        if began and not self.cycle.response_complete:
            return Phase.SERVED
        if self.conn.their_state is h11.SEND_BODY:
            return Phase.LINGERING
        return Phase.HEAD if not began or self.conn.trailing_data[0] else Phase.IDLE

    def _end(self) -> None:
        """End the connection; a head that has begun gets an answer."""
        if self.transport.is_closing():
            return
        if self._phase is Phase.HEAD and self.conn.trailing_data[0] and self.conn.our_state is h11.IDLE:
            self._refuse(envelope(408, "the head of the request did not arrive in time.", code="request_timeout"))
        else:
            self.transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
