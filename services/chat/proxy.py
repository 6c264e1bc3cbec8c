"""Passes a chat on to the serving server, and turns the server's stream into the events of an answer."""

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import anyio.to_thread
from anyio.lowlevel import RunVar

from ...tuning.answering.answer_text import AnswerText
from ...tuning.answering.messages import AnswerEvent, Done, Refused, Started, Words
from .serving_server import ServingServer, object_of

logger = logging.getLogger(__name__)

THREADS = 64
"""Answers that are read from the server at once, each on a thread of its own."""
PATH = "/v1/chat/completions"
T = TypeVar("T")
P = ParamSpec("P")
_limiter: RunVar[anyio.CapacityLimiter] = RunVar("answers of the serving server")


async def answer(
    server: ServingServer, body: Mapping[str, Any], adapter: tuple[str, Path] | None
) -> AsyncGenerator[AnswerEvent]:
    """Yield the events of an answer; the last one is ``Done`` or ``Refused``.

    Args:
        server: The server.
        body: The request of the chat; its model is known to the server, or the adapter.
        adapter: The name and folder of the adapter to load; None for a base.

    Raises:
        RequestError: The server refuses the request, or does not answer.
    """
    if adapter is not None:
        await on_thread(server.load, *adapter)
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    found = await on_thread(server.send, "POST", PATH, asked)
    if found.status == HTTPStatus.NOT_FOUND and adapter is not None:  # it restarted between its list and our request
        await on_thread(found.close)
        await on_thread(server.load, *adapter)
        found = await on_thread(server.send, "POST", PATH, asked)
    try:
        if found.status != HTTPStatus.OK:
            yield _refused(found.status, await on_thread(found.json))
            return
        stream = _Stream()
        while line := await on_thread(found.line):
            for event in stream.take(line):
                yield event
        for event in stream.end():
            yield event
    finally:
        found.break_off()
        found.close()


class _Stream:
    """Turns the lines of a stream into events; white space at the ends is dropped, as ``celora generate`` does."""

    def __init__(self) -> None:
        self._raw, self._text = "", AnswerText()
        self._reason = ""
        self._usage: Mapping[str, Any] = {}
        self._started = False
        self._failed: Refused | None = None

    def take(self, line: bytes) -> list[AnswerEvent]:
        """Take a line, and return its events."""
        chunk = object_of(line.decode("utf-8", "replace").strip().removeprefix("data:"))
        if error := _inner(chunk, "error"):
            self._failed = Refused(code="internal", message=str(error.get("message")))
        self._usage = _inner(chunk, "usage") or self._usage
        choices: Any = chunk.get("choices")
        if not isinstance(choices, list) or not choices:
            return []
        choice = _inner({"choice": choices[0]}, "choice")
        self._reason = str(choice.get("finish_reason") or self._reason)
        self._raw += str(_inner(choice, "delta").get("content") or "")
        part = self._text.grow(self._raw.strip())
        begun, self._started = self._started, True
        return [*([] if begun else [Started(prompt_tokens=0)]), *([Words(text=part)] if part else [])]

    def end(self) -> list[AnswerEvent]:
        """Return the last events."""
        if self._failed is not None or self._reason not in ("stop", "length"):
            return [self._failed or Refused(code="internal", message="the serving server broke off.")]
        part = self._text.end(self._raw.strip())
        done = Done(
            text=self._text.text,
            finish_reason="stop" if self._reason == "stop" else "length",
            prompt_tokens=int(self._usage.get("prompt_tokens") or 0),
            completion_tokens=int(self._usage.get("completion_tokens") or 0),
        )
        return [*([Words(text=part)] if part else []), done]


def _inner(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the object of a name; an empty one where there is none."""
    found: Any = body.get(name)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _refused(status: int, body: Mapping[str, Any]) -> Refused:
    """Make the refusal of an answer with an error status; vLLM's older form has no ``error`` around the message."""
    said = str((_inner(body, "error") or body).get("message") or "the serving server refuses the request.")
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return Refused(code="busy", message=said)
    if status == HTTPStatus.BAD_REQUEST:
        return Refused(code="context_length_exceeded" if "context length" in said else "bad_prompt", message=said)
    logger.error("the serving server answers %d: %s", status, said[:500])
    return Refused(code="internal", message=said)


async def on_thread(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run a call that waits for the server on a thread that no other route needs."""
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(THREADS)
        _limiter.set(limiter)
    return await anyio.to_thread.run_sync(lambda: call(*arguments, **named), limiter=limiter, abandon_on_cancel=True)
