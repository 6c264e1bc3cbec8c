"""Builds the application: its routes, the envelope of errors, request ids, and the number of threads.

Routes are plain functions, which FastAPI runs on threads, because the record's sessions are synchronous. Their number
is the number of connections that a session may get at once, so that no request waits for a connection.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.routing import Route

from ..services.chat import host_process
from . import health, metrics
from .answers import install
from .body import SCHEMAS
from .event_watch import EventWatch
from .native import admin, checks, deliveries, event_stream, finetune, job_changes, logs, lookups, own_key, tenant
from .native import jobs as own_jobs
from .openai import chat, files, jobs, models, uploads, webhooks
from .requests import RequestIds

THREADS = 15
"""SQLAlchemy's own bound of connections: a pool of five and an overflow of ten."""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield
    await app.state.watch.close()
    await anyio.to_thread.run_sync(host_process.stop)


def create_app() -> FastAPI:
    """Build the application."""
    app = FastAPI(
        title="celora",
        version=metadata.version("celora"),
        summary="Fine-tuning as a service on your own GPUs.",
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
        redirect_slashes=False,  # a redirect has no envelope, and clients do not repeat a body
        lifespan=_lifespan,
    )
    install(app)
    app.state.counts = metrics.RequestCounts()
    app.state.watch = EventWatch()
    app.add_middleware(RequestIds)
    app.add_middleware(metrics.Counted, counts=app.state.counts)
    routers = (
        health.router,
        metrics.router,
        files.router,
        uploads.router,
        jobs.router,
        models.router,
        chat.router,
        webhooks.router,
        finetune.router,
        own_jobs.router,
        event_stream.router,
        job_changes.router,
        logs.router,
        lookups.router,
        tenant.router,
        own_key.router,
        deliveries.router,
        checks.router,
        admin.router,
    )
    for router in routers:
        app.include_router(router)
    app.state.routes = [route for router in routers for route in router.routes if isinstance(route, Route)]
    app.openapi = lambda: described(app)
    return app


def described(app: FastAPI) -> dict[str, Any]:
    """Return the description of the API: FastAPI's own, with the bodies that routes read themselves.

    FastAPI describes its refusal of a value as 422; here it is 400 in the envelope of every error.
    """
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(SCHEMAS)
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path in found["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        app.openapi_schema = found
    return app.openapi_schema
