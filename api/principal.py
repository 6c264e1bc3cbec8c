"""Decides who asks: the holder of a key, or on loopback, as long as the record has no key, the tenant ``default``.

A browser sends requests to loopback on behalf of any page that it shows, and a proxy on behalf of anybody. So without
keys a request with a foreign ``Host``, ``Origin`` or ``Sec-Fetch-Site``, or with a header of a proxy, is refused.
"""

from collections.abc import AsyncGenerator
from typing import Annotated
from urllib.parse import urlsplit

import anyio.to_thread
from fastapi import Depends, Request

from ..errors import AccessError, RequestError
from ..models.tenants.audit import Actor, acting
from ..models.tenants.keys import ADMIN, READ, SCOPES, SUBMIT, Principal
from ..services.tenants import keys
from ..settings.loopback import is_loopback
from .rate_limit import check_rate

FORWARDED = ("forwarded", "x-real-ip", "via")
"""Headers of proxies, beside every ``x-forwarded-…``."""
LOCAL = Principal(key_id="", tenant="default", name="", scopes=frozenset(SCOPES))
"""Whoever uses this machine, as long as the record has no key."""


async def principal(request: Request) -> AsyncGenerator[Principal]:
    """Find who asks; a dependency, which FastAPI calls before a route reads the body.

    Raises:
        RequestError: The key is missing, unknown, revoked or expired (401); or the record has no key, and the request
            does not come from this machine (403); or its key has sent too many requests (429).
    """
    found = await anyio.to_thread.run_sync(_judge, request)
    address = request.client.host if request.client else ""
    with acting(Actor(found.name or "api", key_id=found.key_id or None, address=address)):
        yield found


def _judge(request: Request) -> Principal:
    found = _authenticated(request)
    check_rate(found.key_id or "local")
    return found


def _authenticated(request: Request) -> Principal:
    given = request.headers.getlist("authorization")
    scheme, _, key = (given[0] if given else "").partition(" ")
    refused = "the request has no key. Send it as `Authorization: Bearer KEY`."
    if len(given) > 1:  # a proxy before this server may have judged another one of them
        refused = "the request has the header Authorization several times; send it once."
    elif scheme.lower() == "bearer" and key.strip():
        try:
            return keys.authenticate(key.strip())
        except AccessError as error:
            refused = error.message
    if keys.exist():  # asked last: most requests bring a valid key
        raise _unknown(refused)
    _require_loopback(request)
    return LOCAL


def _unknown(message: str) -> RequestError:
    headers = {"www-authenticate": "Bearer"}
    return RequestError(message, reason="invalid_api_key", status=401, headers=headers)


async def reader(found: Annotated[Principal, Depends(principal)]) -> Principal:
    """Find who asks, and require the scope ``read``."""
    found.require(READ)
    return found


async def writer(found: Annotated[Principal, Depends(principal)]) -> Principal:
    """Find who asks, and require the scope ``submit``."""
    found.require(SUBMIT)
    return found


async def admin(found: Annotated[Principal, Depends(principal)]) -> Principal:
    """Find who asks, and require the scope ``admin``."""
    found.require(ADMIN)
    return found


Caller = Annotated[Principal, Depends(reader)]
"""The parameter of a route that reads."""
Writer = Annotated[Principal, Depends(writer)]
"""The parameter of a route that changes something."""
Admin = Annotated[Principal, Depends(admin)]
"""The parameter of a route for operators."""


def _require_loopback(request: Request) -> None:
    if request.client is None or not is_loopback(request.client.host):
        raise _refused("no key exists yet, so only this machine may ask.")
    if not is_loopback(urlsplit(f"//{request.headers.get('host', '')}").hostname or ""):
        raise _refused("the Host header does not name this machine.")
    origin = request.headers.get("origin")
    if origin is not None and origin != f"{request.url.scheme}://{request.headers.get('host', '')}":
        raise _refused("the request comes from another site's page.")
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise _refused("the request comes from another site's page.")
    if any(name in FORWARDED or name.startswith("x-forwarded-") for name in request.headers):
        raise _refused("the request comes through a proxy, and no key exists yet.")


def _refused(why: str) -> RequestError:
    return RequestError(f"{why[0].upper()}{why[1:]}", reason="loopback_only", status=403)
