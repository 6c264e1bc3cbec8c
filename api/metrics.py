"""Counts the requests of this API for Prometheus, and serves the counts at ``/metrics`` to keys with the scope admin.

Only requests are counted here; the figures of the installation are those of ``celora metrics``. Labels are the patterns
of routes, never a path, so that neither an id nor a secret becomes a label. Several processes of one API share their
counts through files in ``PROMETHEUS_MULTIPROC_DIR``, which ``server.serve`` sets before they start.
"""

import os
import time

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answers import ERRORS
from .principal import Admin

router = APIRouter(tags=["health"], responses=ERRORS)

SHARED = "PROMETHEUS_MULTIPROC_DIR"
KIND = "text/plain; version=0.0.4; charset=utf-8"
METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"})
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)
"""Bounds of the times of requests: reads take milliseconds, uploads and streams of events minutes."""


class RequestCounts:
    """The counts of an application's requests."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "celora_http_requests",
            "Requests that were answered, by method, route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "celora_http_request_seconds",
            "Seconds from the head of a request to the end of its answer, by method and route.",
            ["method", "route"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.open = Gauge(
            "celora_http_requests_open",
            "Requests that are being served.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )

    def text(self) -> bytes:
        """Return the counts of all processes of this API in Prometheus's form."""
        registry = self.registry
        if SHARED in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)


class Counted:
    """ASGI middleware that counts each request once its answer has ended.

    Args:
        app: The application.
        counts: Receives the counts.
    """

    def __init__(self, app: ASGIApp, counts: RequestCounts) -> None:
        self._app, self._counts = app, counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), "none"

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        with self._counts.open.track_inprogress():
            try:
                await self._app(scope, receive, send_and_note)
            finally:
                method = scope["method"] if scope["method"] in METHODS else "other"
                route = getattr(scope.get("route"), "path", "none")
                self._counts.requests.labels(method, route, status).inc()
                self._counts.seconds.labels(method, route).observe(time.perf_counter() - started)


@router.get("/metrics", response_class=Response, responses={200: {"content": {KIND: {"schema": {"type": "string"}}}}})
def metrics(request: Request, _caller: Admin) -> Response:
    """Return the counts of requests in Prometheus's form."""
    return Response(request.app.state.counts.text(), media_type=KIND)
