"""Turns errors into the one envelope that clients of OpenAI's API read: ``{"error": {message, type, param, code}}``.

Unusual: a refused value is always 400, never FastAPI's 422, and the answers of the framework itself (404, 405, 413)
have the same envelope, because the client shows ``error.message`` and nothing else.
"""

import http
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from ..errors import (
    AccessError,
    BaseModelError,
    CeloraError,
    DataError,
    NotFoundError,
    RequestError,
    SettingsError,
    StorageError,
    TenantLimitError,
    UnavailableError,
)
from ..models.engine import MIGRATE
from ..services.tenants.words import failure_of
from ..settings.redaction import redactor

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5
"""Seconds after which a client may try again while the record or the storage is away."""
BY_STATUS = {401: "invalid_api_key", 404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
"""Codes of the framework's own refusals."""


class ErrorBody(BaseModel):
    """The content of the envelope."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """The envelope of every answer that is an error."""

    error: ErrorBody


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 401, 403, 404, 408, 409, 413, 415, 429, 500, 503)
}
"""The answers of a route that are errors, for its description."""


KINDS: tuple[tuple[type[CeloraError], int, str, dict[str, str]], ...] = (
    (TenantLimitError, 429, "insufficient_quota", {"x-should-retry": "false"}),
    (AccessError, 403, "forbidden", {}),
    (NotFoundError, 404, "not_found", {}),
)
"""Errors whose message may be shown as it is, with status, code and headers of their answers."""


def envelope(
    status: int, message: str, *, code: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Make the answer of an error."""
    kind = "server_error" if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    if status == http.HTTPStatus.TOO_MANY_REQUESTS:
        kind = code
    body = ErrorAnswer(error=ErrorBody(message=redactor().text(message), type=kind, param=param, code=code))
    return JSONResponse(body.model_dump(), status_code=status, headers=dict(headers or {}))


def answer_of(error: CeloraError) -> JSONResponse:
    """Make the answer of one of celora's own errors."""
    said = failure_of(error)
    sentence = str(said)
    if isinstance(error, RequestError):
        return envelope(error.status, sentence, code=error.reason, param=error.param, headers=error.headers)
    for kind, status, code, headers in KINDS:
        if isinstance(error, kind):
            return envelope(status, said.message, code=code, headers=headers)
    if isinstance(error, UnavailableError | StorageError) or error.hint == MIGRATE:
        logger.error("a request could not be served: %s", error)
        sentence = "the service cannot reach its record or its storage at the moment; try again later."
        return envelope(503, sentence, code="unavailable", headers={"retry-after": str(RETRY_AFTER_S)})
    if isinstance(error, SettingsError | DataError | BaseModelError):
        return envelope(400, sentence, code="invalid_value", param=error.facts.get("param"))
    return unexpected(error)


def unexpected(error: Exception) -> JSONResponse:
    """Make the answer of a fault of celora itself; the log has the details, the answer has none."""
    logger.error("a request failed", exc_info=error)
    return envelope(500, "the server failed; its operator finds the request id in the log.", code="internal")


def install(app: FastAPI) -> None:
    """Give an application the envelope for celora's errors, the framework's and refused values."""
    app.add_exception_handler(CeloraError, _celora)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(RequestValidationError, _refused)


def _celora(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, CeloraError)  # noqa: S101  (installed for this class)
    return answer_of(error)


def _framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  (installed for this class)
    code = BY_STATUS.get(error.status_code, "bad_request")
    message = str(error.detail)
    if error.status_code == http.HTTPStatus.NOT_FOUND:
        message = _not_here(request)
    elif error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{request.method} is not a method of {_shown(request.url.path)}."
        methods = _methods_of(request)
        headers = {"allow": ", ".join(methods)} if methods else error.headers
        return envelope(error.status_code, message, code=code, headers=headers)
    return envelope(error.status_code, message, code=code, headers=error.headers)


def _methods_of(request: Request) -> list[str]:
    """List the methods of a path; the framework names those of the first route alone."""
    routes: list[Route] = getattr(request.app.state, "routes", [])
    found = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in found for method in route.methods or ()})


def _not_here(request: Request) -> str:
    """Explain a path that no route has; a client whose base URL lacks ``/v1`` is the usual cause."""
    path = _shown(request.url.path)
    if request.url.path.startswith("/v1/"):
        return f"there is no {path} in this API."
    if request.url.path.startswith("/v1"):  # the first client joins the two without a slash between them
        return f"there is no {path}: end base_url with a slash, {request.base_url}v1/"
    return f"there is no {path}: the paths of this API begin with /v1. Set base_url to {request.base_url}v1"


def _shown(path: str, longest: int = 100) -> str:
    return path if len(path) <= longest else path[:longest] + "…"


def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101  (installed for this class)
    return answer_of(refusal(error.errors()))


def refusal(faults: Sequence[Mapping[str, Any]], *, within: str = "") -> RequestError:
    """Make the refusal of a value from pydantic's first fault: its dotted place, and a code by its kind.

    Args:
        faults: The faults, as ``ValidationError.errors()`` gives them.
        within: The place of the validated value in the request, as ``method.supervised``.
    """
    fault = faults[0]
    place = _place(fault)
    param = ".".join(filter(None, [within, *place])) or None
    kind = str(fault["type"])
    told = " or ".join(_message(one) for one in faults if _place(one) == place)
    if kind == "missing":
        return RequestError(f"{param} is missing.", reason="missing_required_parameter", param=param)
    if kind == "extra_forbidden":
        return RequestError(f"{param} is no parameter of this request.", reason="unknown_parameter", param=param)
    return RequestError(f"{param or 'the body'}: {told}.".replace("..", "."), reason="invalid_value", param=param)


LONGEST_PART = 100
"""Characters of a field's name that a refusal repeats."""
_BRANCH = re.compile(
    r"\[key\]|literal\[.*\]|constrained-\w+|int|float|str|bool|dict\[.*\]|list\[.*\]|nullable|function-\w+.*"
)
"""The names that pydantic gives the branches of a union, which are no part of a field's place."""


def _place(fault: Mapping[str, Any]) -> list[str]:
    parts = [str(part)[:LONGEST_PART] for part in fault["loc"] if part not in ("body", "query", "path")]
    while len(parts) > 1 and _BRANCH.fullmatch(parts[-1]):
        parts.pop()
    return parts


def _message(fault: Mapping[str, Any]) -> str:
    return str(fault["msg"]).removeprefix("Value error, ")
