"""Asks the answer host for an answer, and starts a host where none answers.

The connection is asynchronous: a request that waits for others takes no thread of the API. Whoever stops reading the
events closes the connection, and the host stops that answer.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator

import anyio.to_thread

from ...settings.settings import Settings
from ...storage.unix_socket import short_path
from ...tuning.answering.messages import (
    REQUEST_BYTES,
    AnswerEvent,
    AnswerRequest,
    Done,
    Refused,
    line_of,
    parse_event,
)
from ...workers.node.answer_process import log_of, socket_of
from . import host_process
from .refusals import unreachable

logger = logging.getLogger(__name__)

START_S = 120.0
"""Seconds in which a started host must take connections; it does so before it loads any library."""
POLL_S = 0.05
TRIES = 3
"""Hosts that are asked for one answer: one may leave after its idle time, and another one be killed while it loads."""


async def answer(request: AnswerRequest, settings: Settings) -> AsyncGenerator[AnswerEvent]:
    """Yield the events of an answer; the last one is ``Done`` or ``Refused``.

    Raises:
        RequestError: No host could be started, or the host ended in the middle (503).
    """
    for _ in range(TRIES):
        reader, writer = await _connected(settings)
        last: AnswerEvent | None = None
        try:
            writer.write(line_of(request))
            await writer.drain()
            while line := await reader.readline():
                last = parse_event(line)
                yield last
        except OSError:
            pass  # as an end of the connection
        finally:
            writer.close()
        if isinstance(last, Done | Refused):
            return
        if last is not None:
            break
    logger.error("the answer host ended before it had answered; its log is %s", log_of(settings))
    raise unreachable()


async def _connected(settings: Settings) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the host, which is started where nobody listens."""
    deadline, started = time.monotonic() + START_S, 0
    path = socket_of(settings)
    while True:
        try:
            with short_path(path) as place:
                return await asyncio.open_unix_connection(place, limit=REQUEST_BYTES)
        except OSError:
            if time.monotonic() > deadline or started > TRIES:
                logger.exception("the answer host does not start; its log is %s", log_of(settings))
                raise unreachable() from None
        started += await anyio.to_thread.run_sync(host_process.start, settings)
        await asyncio.sleep(POLL_S)
