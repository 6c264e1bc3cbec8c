"""Serves ``POST /v1/chat/completions``: answers of a base or of a trained model, whole and as a stream.

The answers are for trying a model out. A client that goes away, while it waits for its turn or in the middle of its
answer, stops that answer.
"""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Literal, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ValidationError

from ...errors import CeloraError, RequestError
from ...services.chat import answers
from ...services.chat.form import ChatForm, supported
from ...settings.settings import get_settings
from ...tuning.answering.messages import Done, FinishReason, Refused, Words
from ..answers import ERRORS, refusal
from ..body import body_of, read_json
from ..principal import Writer

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/chat/completions", tags=["chat"], responses=ERRORS)

BODY_BYTES = 8 << 20
"""Size of the largest request: a million tokens of plain text, which the longest contexts hold."""
STREAM = "text/event-stream"
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
NOTE = "for trying a model out; no serving engine: one answer at a time"
T = TypeVar("T")


class AnswerMessage(BaseModel):
    """The message that the model wrote."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """The one choice of an answer."""

    index: Literal[0] = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: FinishReason


class Usage(BaseModel):
    """Numbers of tokens; the end of the answer counts as one."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Service(BaseModel):
    """Who answered."""

    served_by: answers.ServedBy
    note: str | None


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    celora: Service


@router.post(
    "",
    openapi_extra=body_of(ChatForm),
    response_model=ChatCompletion,
    responses={200: {"content": {STREAM: {"schema": {"type": "string"}}}}},
)
async def complete(request: Request, caller: Writer) -> ChatCompletion | StreamingResponse:
    """Answer a conversation."""
    fields = supported(await read_json(request, BODY_BYTES))
    try:
        form = ChatForm.model_validate(fields)
    except ValidationError as error:
        raise refusal(error.errors(include_url=False)) from None
    begun = await _attended(request, answers.begin(form, caller.tenant, get_settings()))
    if form.stream:
        return StreamingResponse(_lines(begun, form), media_type=STREAM, headers=HEADERS)
    done = await _attended(request, _whole(begun))
    return ChatCompletion(
        id=_new_id(),
        created=int(time.time()),
        model=form.model,
        choices=[Choice(message=AnswerMessage(content=done.text), finish_reason=done.finish_reason)],
        usage=_usage(done),
        celora=_service(begun),
    )


def _new_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"


async def _attended(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Wait for work, and cancel it when the client goes away.

    Raises:
        RequestError: The client has gone; nobody reads this answer.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise RequestError("the client has gone.", reason="client_closed")
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _whole(begun: answers.Answering) -> Done:
    """Read an answer to its end.

    Raises:
        RequestError: The model or its server failed.
    """
    try:
        async for event in begun.events:
            if isinstance(event, Done):
                return event
            if isinstance(event, Refused):
                break
    finally:
        await begun.events.aclose()
    raise RequestError("the answer failed; the operator finds the cause in the log.", reason="internal", status=500)


async def _lines(begun: answers.Answering, form: ChatForm) -> AsyncGenerator[str]:
    """Write the chunks of an answer as server-sent events."""
    head = {"id": _new_id(), "created": int(time.time()), "model": form.model}
    common = {**head, "object": "chat.completion.chunk"}
    usage = {"usage": None} if form.wants_usage else {}
    first = _choice({"role": "assistant", "content": "", "refusal": None})
    yield _line({**common, "choices": [first], **usage, "celora": _service(begun).model_dump()})
    try:
        async for event in begun.events:
            if isinstance(event, Words):
                yield _line({**common, "choices": [_choice({"content": event.text})], **usage})
            elif isinstance(event, Done):
                yield _line({**common, "choices": [_choice({}, event.finish_reason)], **usage})
                if form.wants_usage:
                    yield _line({**common, "choices": [], "usage": _usage(event).model_dump()})
            elif isinstance(event, Refused):
                yield _broken()
                return
    except CeloraError as error:
        logger.warning("a streamed answer broke off: %s", error)
        yield _broken()
        return
    finally:
        await begun.events.aclose()
    yield "data: [DONE]\n\n"


def _choice(delta: dict[str, Any], finish_reason: FinishReason | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _line(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def _broken() -> str:
    """Write the error of an answer whose status was sent already; clients raise it."""
    error = {"message": "the answer broke off.", "type": "server_error", "param": None, "code": "internal"}
    return _line({"error": error})


def _usage(done: Done) -> Usage:
    return Usage(
        prompt_tokens=done.prompt_tokens,
        completion_tokens=done.completion_tokens,
        total_tokens=done.prompt_tokens + done.completion_tokens,
    )


def _service(begun: answers.Answering) -> Service:
    return Service(served_by=begun.served_by, note=NOTE if begun.served_by == "answer host" else None)
