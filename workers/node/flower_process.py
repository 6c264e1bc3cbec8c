"""Chooses Flower's port and login, waits until Flower listens, and makes the line that names both."""

import importlib.util
import secrets
from pathlib import Path

from ...settings.settings import Settings
from .listener import Listener
from .processes import Service

PORT = 5555
CONFIG = Path(__file__).parents[2] / "flower" / "flowerconfig.py"
"""Flower's configuration, shipped in a folder that is no package; the file itself gives the reason."""


class FlowerPage(Listener):
    """The port and the login of the Flower that an installation starts.

    Args:
        settings: Settings of the installation.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._login = settings.flower_auth or f"celora:{secrets.token_urlsafe(24)}"
        super().__init__(PORT)

    @property
    def arguments(self) -> list[str]:
        """Build the arguments after ``celery -A celora.workers``."""
        return ["flower", f"--conf={CONFIG}", f"--port={self.port}"]

    @property
    def environment(self) -> dict[str, str]:
        """Build Flower's variables with its login, since every user can read a command line but no environment."""
        return {"CELORA_FLOWER_AUTH": self._login}

    def await_up(self, service: Service, cwd: Path, deadline: float) -> str:
        """Wait until Flower listens; return the line for people, also where Flower did not come up.

        Args:
            service: Flower's process.
            cwd: Working directory for another start.
            deadline: End of the wait by the monotonic clock.
        """
        if self.wait_until_up(service, cwd, deadline):
            return self._line()
        return f"Flower did not come up; its log is {service.log}"

    def _line(self) -> str:
        user, _, password = self._login.partition(":")
        told = "as CELORA_FLOWER_AUTH says" if self._settings.flower_auth else password
        shown = "  (read only)" if self._settings.flower_read_only else ""
        return f"Flower http://127.0.0.1:{self.port}  user {user}, password {told}{shown}"


def installed() -> bool:
    """Check if Flower is installed; a folder of its name is not enough."""
    try:
        return importlib.util.find_spec("flower.command") is not None
    except ModuleNotFoundError:
        return False
