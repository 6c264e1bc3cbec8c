"""Makes the error of an answer that is none, of the kind that the same fault has on the server's own command line."""

import ssl
from typing import Any

import httpx

from ...errors import (
    AccessError,
    CeloraError,
    NotFoundError,
    RequestError,
    SettingsError,
    TenantLimitError,
    UnavailableError,
)
from .server import API_KEY, FORM

UNAUTHORIZED, FORBIDDEN, NOT_FOUND, TOO_MANY, FAILED, UNAVAILABLE = 401, 403, 404, 429, 500, 503
KINDS: dict[int, type[CeloraError]] = {FORBIDDEN: AccessError, NOT_FOUND: NotFoundError, TOO_MANY: TenantLimitError}
GATEWAYS = (502, UNAVAILABLE, 504)
PAUSE_S = 2.0
"""Seconds between repetitions where the server names no number."""
LONGEST_MESSAGE = 2_000
LATER = "Try again later."


def refusal_of(answer: httpx.Response, url: str) -> CeloraError:
    """Make the error of an answer whose status is none of success.

    Args:
        answer: The answer, read to its end.
        url: The server's URL, for the sentence.
    """
    if answer.is_redirect:
        place = answer.headers.get("location", "another place")[:200]
        return SettingsError(f"{url} redirects to {place}.", hint="Give the URL that it redirects to.")
    said = _envelope(answer)
    if said is None and answer.status_code in GATEWAYS:
        return UnavailableError(f"{url} is not available at the moment ({answer.status_code}).", hint=LATER)
    return stranger(answer, url) if said is None else _said(answer, said)


def stranger(answer: httpx.Response, url: str) -> SettingsError:
    """Make the error of an answer that no celora server gives."""
    kind = answer.headers.get("content-type", "without a type")[:60]
    return SettingsError(f"{url} answers as no celora server does ({answer.status_code}, {kind}).", hint=FORM)


def broken(error: httpx.TransportError, url: str) -> UnavailableError:
    """Make the error of a request without an answer."""
    fault = _tls_fault(error)
    if isinstance(error, httpx.ConnectTimeout):
        return UnavailableError(f"{url} did not accept a connection in time.", hint="Check the URL.")
    if isinstance(error, httpx.TimeoutException):
        return UnavailableError(f"{url} did not answer in time.", hint=LATER)
    if isinstance(fault, ssl.SSLCertVerificationError):
        return UnavailableError(
            f"the certificate of {url} is not trusted ({fault.verify_message}).",
            hint="Name the file of your authority in SSL_CERT_FILE.",
        )
    if fault is not None:
        return UnavailableError(f"{url} does not speak TLS ({fault.reason or fault}).", hint="Check the URL.")
    told = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError):
        return UnavailableError(f"{url} cannot be reached ({told}).", hint="Check the URL.")
    return UnavailableError(f"the connection to {url} broke ({told}).", hint=LATER)


def wait_s(answer: httpx.Response) -> float | None:
    """Return the seconds after which the server may take the request; None where repeating has no sense."""
    if answer.headers.get("x-should-retry") == "false":
        return None
    given = answer.headers.get("retry-after", "")
    known = given.isascii() and given.isdigit() and len(given) < 6  # noqa: PLR2004  (a date, or no number, counts as none)
    return max(float(given), 0.1) if known else PAUSE_S


def _envelope(answer: httpx.Response) -> dict[str, Any] | None:
    """Return the content of the envelope of errors; None where the answer has another form."""
    try:
        said = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return None
    return said if isinstance(said, dict) and "message" in said else None  # pyright: ignore[reportUnknownVariableType]


def _said(answer: httpx.Response, said: dict[str, Any]) -> CeloraError:
    message, code, status = str(said["message"])[:LONGEST_MESSAGE], str(said.get("code")), answer.status_code
    if status == UNAUTHORIZED:
        return AccessError(message, hint=f"Set {API_KEY} to a valid key of this server.")
    if status == TOO_MANY and code != "insufficient_quota":
        return UnavailableError(message, hint=f"Wait {wait_s(answer) or PAUSE_S:.0f} s and try again.")
    if status >= FAILED:
        number = answer.headers.get("x-request-id")
        return UnavailableError(message, hint=f"{LATER} The request's id is {number[:100]}." if number else LATER)
    if status in KINDS:
        return KINDS[status](message)
    return RequestError(message, reason=code, param=said.get("param"), status=status)


def _tls_fault(error: BaseException) -> ssl.SSLError | None:
    """Find the fault of TLS behind an error."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return cause
