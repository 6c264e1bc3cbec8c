"""Defines ``celora metrics``, which serves the installation's figures to Prometheus over HTTP."""

import logging
import platform
import threading
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from typing import Annotated

import typer

from ..errors import UnavailableError
from ..models.database import get_database
from ..settings.settings import get_settings
from .node import until_interrupted
from .output import say

PORT = 9808


def metrics(
    *,
    address: Annotated[str, typer.Option(help="Where to listen; this machine alone unless set.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, help="On which port; 0 takes a free one.")] = PORT,
    once: Annotated[bool, typer.Option("--once", help="Print the figures and leave.")] = False,
) -> None:
    """Serve jobs, queues, leases, workers, speed and money as Prometheus metrics, from the record, until Ctrl-C.

    One for an installation is enough. It asks for no password, so open its port to your Prometheus alone.

    Example: `celora metrics --port 9808`
    """
    if find_spec("prometheus_client") is None:
        raise UnavailableError(
            "Prometheus' client library is not installed.", hint='Run `pip install "celora[metrics]"`.'
        )
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server  # noqa: PLC0415  (an extra)

    from ..workers import logging as log_lines  # noqa: PLC0415  (Celery takes a third of a second to import)
    from ..workers.exporter import Exporter  # noqa: PLC0415  (the same)

    log_lines.name_process(f"metrics@{platform.node()}")
    log_lines.set_up()
    database = get_database()
    database.require_schema()
    registry = CollectorRegistry(auto_describe=False)
    exporter = Exporter(database, get_settings())
    exporter.catch_up()
    registry.register(exporter)
    if once:
        say(generate_latest(registry).decode(), nl=False)
        return
    with until_interrupted(), ExitStack() as serving, suppress(KeyboardInterrupt):
        server, thread = start_http_server(port, addr=address, registry=registry)
        for end in (thread.join, server.server_close, server.shutdown):
            serving.callback(end)
        logging.getLogger(__name__).info("http://%s:%d/metrics", address, server.server_port)
        threading.Event().wait()
