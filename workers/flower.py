"""Flower as a part of an installation: where it listens, its login, and the line that tells both.

A port that was free a moment ago may be another program's when Flower has loaded, seconds later; so where it listens is
told once it does, and it gets another port where it could not.
"""

import importlib.util
import secrets
import socket
import time
from pathlib import Path

import psutil

from ..settings.settings import Settings
from .services import Service

PORT = 5555
CONFIG = Path(__file__).parent.parent / "flower" / "flowerconfig.py"
"""Shipped beside the rooms, in a folder that is no package: see there."""


class FlowerPage:
    """A Flower that an installation starts.

    Args:
        settings: Of the installation.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._login = settings.flower_auth or f"celora:{secrets.token_urlsafe(24)}"
        self._port = PORT if _free(PORT) else _any_free()

    @property
    def arguments(self) -> list[str]:
        """What follows ``celery -A celora.workers``."""
        return ["flower", f"--conf={CONFIG}", f"--port={self._port}"]

    @property
    def environment(self) -> dict[str, str]:
        """Its login: a command line is seen by everybody on the machine."""
        return {"CELORA_FLOWER_AUTH": self._login}

    def await_up(self, service: Service, cwd: Path, deadline: float) -> str:
        """Wait until it listens; the line that says where, or that it does not.

        Args:
            service: Its process.
            cwd: Where that is started.
            deadline: Until when, by the monotonic clock.
        """
        moved = False
        while time.monotonic() < deadline:
            if self._listens(service):
                return self._line()
            if not service.alive():
                if moved:
                    break
                moved, before = True, self.arguments
                self._port = _any_free()
                service.command = [*service.command[: -len(before)], *self.arguments]
                service.end()
                service.start(cwd)
            time.sleep(0.1)
        return f"Flower did not come up; its log is {service.log}"

    def _listens(self, service: Service) -> bool:
        if service.process is None or not service.alive():
            return False
        try:
            found = psutil.Process(service.process.pid).net_connections("tcp")
        except psutil.Error:
            return False
        return any(one.status == psutil.CONN_LISTEN and one.laddr.port == self._port for one in found if one.laddr)

    def _line(self) -> str:
        user, _, password = self._login.partition(":")
        told = "as CELORA_FLOWER_AUTH says" if self._settings.flower_auth else password
        shown = "  (read only)" if self._settings.flower_read_only else ""
        return f"Flower http://127.0.0.1:{self._port}  user {user}, password {told}{shown}"


def installed() -> bool:
    """Whether Flower is there; a folder of its name is not enough."""
    try:
        return importlib.util.find_spec("flower.command") is not None
    except ModuleNotFoundError:
        return False


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _any_free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
