"""Reads the body of a request within limits: its length, the time that it takes, and the strictness of its JSON.

Unusual: routes take a ``Request`` and read the body here. FastAPI reads a body that is a parameter of a route before it
calls the dependencies, so that a request without a key could upload first and be refused afterwards.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

import anyio.to_thread
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from ..errors import RequestError
from ..tuning.files.faults import Fault
from ..tuning.files.strict_json import JsonObject, parse
from .answers import refusal

JSON_BYTES = 1 << 20
"""Size of the largest JSON body. A job's largest honest request has some kilobytes."""
JSON_S = 30.0
"""Seconds in which a JSON body must have arrived."""
IDLE_S = 60.0
"""Longest pause between two parts of a body."""
SLOWEST_BYTES_PER_S = 16 << 10
"""Speed below which a large body is given up, measured over its whole."""

SCHEMAS: dict[str, Any] = {}
"""The schemas of the bodies that routes read themselves, by name; the description of the API lists them."""

Model = TypeVar("Model", bound=BaseModel)


def body_of(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Describe the JSON body of a route that reads it itself."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    SCHEMAS.update(schema.pop("$defs", {}))
    SCHEMAS[model.__name__] = schema
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    return {"requestBody": {"required": required, "content": content}}


def check_length(request: Request, most_bytes: int) -> None:
    """Refuse a body by its announced length and coding, before a byte of it is read.

    Raises:
        RequestError: It is longer than ``most_bytes``, compressed, or its length is no number.
    """
    if any(coding.lower() != "identity" for coding in request.headers.getlist("content-encoding")):
        raise RequestError("a compressed body is not accepted.", reason="unsupported_encoding", status=415)
    announced = request.headers.get("content-length")
    if announced is None:
        return
    if not announced.isascii() or not announced.isdigit():
        raise RequestError("content-length is no number.", reason="bad_request")
    if int(announced) > most_bytes:
        raise too_large(most_bytes)


def too_large(most_bytes: int) -> RequestError:
    """Make the refusal of a body that is too long."""
    shown = f"{most_bytes / 2**20:,.0f} MiB" if most_bytes >= 1 << 20 else f"{most_bytes:,} bytes"
    return RequestError(f"the body is larger than {shown}.", reason="request_too_large", status=413)


async def chunks(request: Request, most_bytes: int, *, within_s: float | None = None) -> AsyncGenerator[bytes]:
    """Yield the body as it arrives.

    Args:
        request: The request.
        most_bytes: The length above which the body is refused.
        within_s: Seconds for the whole body; unless given, those of ``most_bytes`` at ``SLOWEST_BYTES_PER_S``.

    Raises:
        RequestError: The body is too long (413), too slow (408), or its sender has gone.
    """
    check_length(request, most_bytes)
    left, stream = most_bytes, request.stream()
    ends = asyncio.get_running_loop().time() + (within_s or IDLE_S + most_bytes / SLOWEST_BYTES_PER_S)
    while True:
        wait_s = min(IDLE_S, ends - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(max(0.0, wait_s)):
                part = await anext(stream, None)
        except ClientDisconnect:  # nobody reads the answer; it ends the request without a fault of the server
            raise RequestError("the body ended before its end.", reason="request_aborted") from None
        except TimeoutError:
            raise RequestError("the body did not arrive in time.", reason="request_timeout", status=408) from None
        if part is None:
            return
        left -= len(part)
        if left < 0:
            raise too_large(most_bytes)
        yield part


async def read_json(request: Request, most_bytes: int = JSON_BYTES) -> JsonObject:
    """Read a body that is one JSON object; an empty body is an empty object.

    Raises:
        RequestError: It is too long, too slow, or no strict JSON object: NaN, a repeated key, deep nesting, an array.
    """
    body = b"".join([part async for part in chunks(request, most_bytes, within_s=JSON_S)])
    if len(body) > JSON_BYTES:
        return await anyio.to_thread.run_sync(_parsed, body)  # it takes longer than other requests may wait
    return _parsed(body)


def _parsed(body: bytes) -> JsonObject:
    if not body.strip():
        return {}
    try:
        return parse(body.decode("utf-8"), row="body")
    except UnicodeDecodeError:
        raise RequestError("the body is not UTF-8.", reason="invalid_json") from None
    except Fault as fault:
        raise RequestError(f"the body is refused: {fault.reason}.", reason="invalid_json") from None


async def read_model(request: Request, model: type[Model]) -> Model:
    """Read a JSON body as a model.

    Raises:
        RequestError: As ``read_json``; or a field is unknown, missing or wrong, named by its dotted place.
    """
    fields = await read_json(request)
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise refusal(error.errors(include_url=False)) from None
