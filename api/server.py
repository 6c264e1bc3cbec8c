"""Runs the application with uvicorn, in one process or several, and judges the address at which it listens."""

import logging
import os
import tempfile
from typing import Literal, TypedDict

import uvicorn

from ..errors import SettingsError
from ..settings.loopback import is_loopback
from ..settings.settings import Settings
from .connection import LimitedConnection
from .metrics import SHARED

logger = logging.getLogger(__name__)

APP = "celora.api.app:create_app"
HEADERS_BYTES = 64 << 10
"""Size of the largest head of a request."""
KEEP_ALIVE_S = 30
STOP_S = 10
"""Seconds that open answers, such as streams of events, have to end when the server is asked to stop."""


class Options(TypedDict):
    """The options of uvicorn that do not depend on the address."""

    factory: bool
    http: type[LimitedConnection]
    ws: Literal["none"]
    proxy_headers: bool
    forwarded_allow_ips: list[str] | None
    server_header: bool
    access_log: bool
    log_config: None
    h11_max_incomplete_event_size: int
    timeout_keep_alive: int
    timeout_graceful_shutdown: int


def check_address(host: str, settings: Settings) -> None:
    """Judge an address: beyond loopback, keys and data travel without encryption unless a proxy ends TLS.

    Raises:
        SettingsError: The profile is production, the address is no loopback, and no trusted proxy is named.
    """
    if is_loopback(host):
        return
    if settings.trusted_proxies:
        return
    if settings.profile == "production":
        raise SettingsError(
            f"CELORA_PROFILE is production and the API would serve plain HTTP on {host}.",
            hint="Put a proxy that ends TLS before it and name its address: CELORA_TRUSTED_PROXIES='[\"10.0.0.5\"]'.",
        )
    logger.warning("the API serves plain HTTP on %s: keys and data can be read on the way", host)


def serve(settings: Settings, *, host: str, port: int, processes: int) -> None:
    """Serve until a signal ends the program.

    Raises:
        SettingsError: The address is refused (``check_address``).
    """
    check_address(host, settings)
    if processes == 1:
        _run(settings, host=host, port=port, processes=1)
        return
    with tempfile.TemporaryDirectory(prefix="celora-api-") as counts:
        os.environ[SHARED] = counts
        _run(settings, host=host, port=port, processes=processes)


def _run(settings: Settings, *, host: str, port: int, processes: int) -> None:
    uvicorn.run(APP, host=host, port=port, workers=processes, **options(settings))


def options(settings: Settings) -> Options:
    """Return uvicorn's options for this API, wherever it listens."""
    return Options(
        factory=True,
        http=LimitedConnection,
        ws="none",
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or None,
        server_header=False,
        access_log=False,
        log_config=None,
        h11_max_incomplete_event_size=HEADERS_BYTES,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
    )
