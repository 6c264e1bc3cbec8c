"""Serves ``/v1/celora/jobs/ID/events/stream``: a job's events as they happen, for as long as the caller's key holds."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Header, Request
from fastapi.encoders import jsonable_encoder
from fastapi.responses import Response, StreamingResponse

from ...errors import RequestError
from ...models.tenants.keys import Principal
from ...services.native import job_reads
from ...services.openai.events import LARGEST
from ...services.tenants import keys
from ...services.tenants.job_views import EventLine
from ..answers import ERRORS, envelope
from ..event_watch import End, EventWatch
from ..principal import Caller
from .jobs import JobId

router = APIRouter(prefix="/v1/celora/jobs", tags=["celora"], responses=ERRORS)

KEEP_ALIVE_S = 15.0
"""Seconds without an event after which a stream sends a comment, so that proxies keep it open."""
AT_ONCE = 200
"""Earlier events that are read at once; the key is judged before each read."""
STREAM = "text/event-stream"
NO_NEWS = ": no news\n\n"


@dataclass(frozen=True)
class Stream:
    """A stream of the events of a job.

    Attributes:
        caller: Whoever opened it.
        job_id: The job.
    """

    caller: Principal
    job_id: str

    def earlier(self, after_id: int) -> tuple[list[EventLine], End | None]:
        """Read events that are there already; none once the key does not hold any more."""
        if not keys.in_force([self.caller.key_id]):
            return [], End.KEY
        lines, ended = job_reads.events(self.caller.tenant, self.job_id, after_id=after_id, limit=AT_ONCE)
        return lines, End.JOB if ended else None

    async def blocks(
        self, watch: EventWatch, after_id: int, lines: list[EventLine], end: End | None
    ) -> AsyncGenerator[str]:
        """Yield the first events, those that follow, and the block that says why the stream ends."""
        while lines:
            for line in lines:
                yield _block(line)
            after_id = lines[-1].id
            lines, end = await anyio.to_thread.run_sync(self.earlier, after_id)
        with watch.watch(self.job_id, after_id, self.caller.key_id) as watcher:
            while end is None:
                if not lines:
                    yield NO_NEWS
                lines, end = await watcher.take(KEEP_ALIVE_S)
                for line in lines:
                    if watcher.end is End.KEY:  # it ended while the client was slow to read
                        end = End.KEY
                        break
                    yield _block(line)
        yield _last_block(end)


@router.get(
    "/{job_id}/events/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {STREAM: {"schema": {"type": "string"}}}}},
)
async def stream(
    request: Request,
    caller: Caller,
    job_id: JobId,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> StreamingResponse:
    """Send a job's events as they happen, until the job has ended; ``Last-Event-ID`` goes on after an event.

    The last block is ``end`` after the job's end, ``refused`` once the key does not hold any more, and ``fault`` if an
    event cannot be read; the data of the latter two is the envelope of an error.
    """
    if last_event_id and not (last_event_id.isascii() and last_event_id.isdigit()):
        raise RequestError("Last-Event-ID is no id of an event.", param="Last-Event-ID")
    after_id = min(int(last_event_id or 0), LARGEST)
    opened = Stream(caller, job_id)
    lines, end = await anyio.to_thread.run_sync(opened.earlier, after_id)
    blocks = opened.blocks(request.app.state.watch, after_id, lines, end)
    return StreamingResponse(blocks, media_type=STREAM, headers={"cache-control": "no-store"})


def _block(line: EventLine) -> str:
    return f"id: {line.id}\nevent: {line.kind}\ndata: {json.dumps(jsonable_encoder(line))}\n\n"


def _last_block(end: End) -> str:
    if end is End.JOB:
        return "event: end\ndata: {}\n\n"
    if end is End.KEY:
        why = "the key of this stream was revoked or has expired; a stream without a key ends when the first is made."
        return f"event: refused\ndata: {_data(envelope(401, why, code='invalid_api_key'))}\n\n"
    why = "an event of this job cannot be shown; the operator finds the reason in the log."
    return f"event: fault\ndata: {_data(envelope(500, why, code='internal'))}\n\n"


def _data(answer: Response) -> str:
    return bytes(answer.body).decode()
