"""Chooses the port of the HTTP API that an installation starts on the loopback, and makes the line that names it."""

import importlib.util
from pathlib import Path

from ...settings.settings import API_PORT
from .listener import Listener
from .ports import LOOPBACK
from .processes import Service

PROGRAM = ["-m", "celora.cli", "api"]
"""The words after Python; the command line has the program, which this room may not import."""


class ApiListener(Listener):
    """The HTTP API of an installation."""

    def __init__(self) -> None:
        super().__init__(API_PORT)

    @property
    def url(self) -> str:
        """The base URL of clients."""
        return f"http://{LOOPBACK}:{self.port}/v1"

    @property
    def arguments(self) -> list[str]:
        """The arguments after ``celora api``."""
        return ["--host", LOOPBACK, "--port", str(self.port)]

    def await_up(self, service: Service, cwd: Path, deadline: float) -> str:
        """Wait until the API listens; return the line for people, also where it did not come up."""
        if self.wait_until_up(service, cwd, deadline):
            return f"API {self.url}"
        return f"the API did not come up; its log is {service.log}"


def installed() -> bool:
    """Check if the packages of ``celora[api]`` are installed."""
    return all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "python_multipart"))
