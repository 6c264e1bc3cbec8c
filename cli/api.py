"""Defines ``celora api``, which serves the HTTP API."""

from importlib.util import find_spec
from typing import Annotated

import typer

from ..errors import UnavailableError
from ..settings.settings import API_PORT, get_settings
from .open_record import record
from .output import say


def api(
    *,
    host: Annotated[str, typer.Option(help="Where to listen; this machine alone unless set.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="On which port; 0 takes a free one.")] = API_PORT,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the port.")] = 1,
) -> None:
    """Serve the HTTP API, in the foreground, until Ctrl-C.

    `celora up` starts it too. Clients of OpenAI's fine-tuning API use it as `base_url`.

    Example: `celora api --port 8320`
    """
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise UnavailableError("the HTTP API is not installed.", hint='Run `pip install "celora[api]"`.')
    from ..api.server import serve  # noqa: PLC0415  (an extra)
    from ..workers import logging as log_lines  # noqa: PLC0415  (Celery takes a third of a second to import)
    from ..workers.node.ports import free_port  # noqa: PLC0415  (the same)

    settings = get_settings()
    record().require_schema()
    log_lines.set_up()
    port = port or free_port()
    say(f"http://{host}:{port}/v1; Ctrl-C stops it")
    serve(settings, host=host, port=port, processes=processes)
