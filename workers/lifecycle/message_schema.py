"""Checks the shape of a task message: exactly the headers and fields that Celery or kombu reads without a check.

Celery reads these fields in a worker's main loop and in its timers without a check, so a field of the wrong type ends
the worker, and the broker delivers the message to the next worker. Headers that Celery does not read (tracing, stamps
of other versions) pass. The fields are those of Celery's message protocol 2; protocol 1 carries them in the body.
"""

import base64
import binascii
import json
import zlib
from datetime import datetime
from typing import Annotated, Any, Literal

from celery.utils.time import maybe_iso8601
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

MOST_BYTES = 64 * 2**20
"""Size of a body, compressed or not, above which the message is dropped unread."""
MOST_NAMES = 1000
"""Largest number of callbacks, steps of a chain or stamped headers in one message."""
GZIP = "application/x-gzip"
"""kombu's name of zlib, the only compression whose result can be bounded with the standard library."""
CELERYS_OWN = "celery."
"""Prefix of Celery's own tasks: ``celery.starmap`` calls a task inside its own, without the queue of the message."""
EARLIEST_YEAR, LATEST_YEAR = 1970, 9000


class MalformedMessageError(Exception):
    """A message does not have the shape of a task message; the text names the field and the fault, never a value."""


def _moment(text: str) -> str:
    moment: Any = maybe_iso8601(text)
    if not isinstance(moment, datetime) or not EARLIEST_YEAR <= moment.year <= LATEST_YEAR:
        reason = "is no time"
        raise ValueError(reason)
    return text


Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
Moment = Annotated[str, Field(max_length=64), AfterValidator(_moment)]
Seconds = Annotated[float, Field(gt=0, le=10**9, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**31)]
Steps = Annotated[list[dict[str, Any]], Field(max_length=MOST_NAMES)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Headers(_Part):
    """The headers of a message that Celery reads."""

    task: Name
    id: Name
    lang: str | None = None
    root_id: Name | None = None
    parent_id: Name | None = None
    group: Name | None = None
    group_index: Count | None = None
    shadow: Name | None = None
    origin: str | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    eta: Moment | None = None
    expires: Moment | None = None
    retries: Count | None = None
    timelimit: Annotated[list[Seconds | None], Field(min_length=2, max_length=2)] | None = None
    ignore_result: bool | None = None
    replaced_task_nesting: Count | None = None
    stamped_headers: Annotated[list[Name], Field(max_length=MOST_NAMES)] | None = None
    stamps: dict[str, Any] | None = None
    compression: Literal["application/x-gzip"] | None = None


class Embed(_Part):
    """The continuation of a task: callbacks, and the rest of its chain or chord."""

    callbacks: Steps | None = None
    errbacks: Steps | None = None
    chain: Steps | None = None
    chord: dict[str, Any] | None = None


class OldBody(Headers):
    """A body of message protocol 1, which carries the fields that are headers in protocol 2."""

    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    callbacks: Steps | None = None
    errbacks: Steps | None = None
    chord: dict[str, Any] | None = None


class DeliveryInfo(_Part):
    """The destination of a message."""

    exchange: Annotated[str, Field(max_length=255)]
    routing_key: Annotated[str, Field(max_length=255)]


class Properties(_Part):
    """The properties of a message that kombu reads."""

    delivery_tag: Name
    delivery_info: DeliveryInfo
    delivery_mode: Count | None = None
    body_encoding: Literal["base64"] | None = None
    correlation_id: Name | None = None
    reply_to: Name | None = None
    priority: Annotated[int, Field(ge=0, le=255)] | None = None


class Envelope(_Part):
    """A line of a queue, as kombu writes it."""

    body: Annotated[str, Field(max_length=2 * MOST_BYTES)]
    content_type: Annotated[Literal["application/json"], Field(alias="content-type")]
    content_encoding: Annotated[Literal["utf-8", "utf8", "us-ascii"], Field(alias="content-encoding")]
    headers: dict[str, Any]
    properties: Properties


def check_task_message(raw: object) -> None:
    """Check a queue's line after JSON was read from it.

    Raises:
        MalformedMessageError: A field is missing or has a type that would harm a worker.
    """
    try:
        envelope = Envelope.model_validate(raw)
        old = "task" not in envelope.headers
        headers = None if old else Headers.model_validate(envelope.headers)
        body = decoded_body(envelope, headers.compression if headers else envelope.headers.get("compression"))
        if headers is None:
            headers = OldBody.model_validate(body)
        else:
            _check_body(body)
        if headers.task.startswith(CELERYS_OWN):
            raise MalformedMessageError("task: one of Celery's own, which could call any task of this worker")
    except ValidationError as error:
        raise MalformedMessageError(first_fault(error)) from None


def decoded_body(envelope: Envelope, compression: object = None) -> Any:
    """Decode the JSON of a body.

    Raises:
        MalformedMessageError: The body is no JSON, or is larger than ``MOST_BYTES``.
    """
    try:
        data = envelope.body.encode()
        if envelope.properties.body_encoding == "base64":
            data = base64.b64decode(data)
        if compression == GZIP:
            data = _inflated(data)
        elif compression is not None:
            raise MalformedMessageError("compression: this one is not taken")
        if len(data) > MOST_BYTES:
            raise MalformedMessageError(f"body: more than {MOST_BYTES} bytes")
        return json.loads(data)
    except (ValueError, binascii.Error, zlib.error, RecursionError) as error:
        raise MalformedMessageError(f"body: no JSON ({type(error).__name__})") from None


def _inflated(data: bytes) -> bytes:
    reader = zlib.decompressobj()
    plain = reader.decompress(data, MOST_BYTES)
    if reader.unconsumed_tail:
        raise MalformedMessageError(f"body: more than {MOST_BYTES} bytes")
    return plain


def _check_body(body: object) -> None:
    match body:
        case [list(), dict(), dict()]:
            Embed.model_validate(body[2])  # pyright: ignore[reportUnknownArgumentType]
        case [list(), dict(), None]:
            return
        case _:
            raise MalformedMessageError("body: not [arguments, keyword arguments, what follows]")


def first_fault(error: ValidationError) -> str:
    """Return the first fault that pydantic found: the field's name and the fault, never the value."""
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(str(part)[:64] for part in first['loc'])}: {first['msg']}"
