"""Gives every answer a request id, refuses NUL in addresses, and answers for errors that nothing else caught.

PostgreSQL cannot store or compare a text with NUL, and SQLite can; so no id, name or cursor may have one here.
"""

import logging
import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answers import envelope, unexpected

logger = logging.getLogger(__name__)

HEADER = "x-request-id"


def new_request_id() -> str:
    """Make the id of a request."""
    return f"req_{secrets.token_hex(16)}"


class RequestIds:
    """ASGI middleware: an id of the server's own for each request, in its answer and in the log of a failure.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, started = new_request_id(), False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            refused = envelope(400, "the address has the character NUL.", code="invalid_value")
            await refused(scope, receive, send_with_id)
            return
        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            logger.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"][:200])
            if started:
                raise
            await unexpected(error)(scope, receive, send_with_id)
