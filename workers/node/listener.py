"""Finds a process of the installation a port of the loopback, and waits until it listens there.

Such a process takes seconds to load, and another program may take the free port meanwhile. So the process is started
again on another port if the first one was taken, once.
"""

import time
from abc import ABC, abstractmethod
from pathlib import Path

import psutil

from .ports import free_port, is_free
from .processes import Service


class Listener(ABC):
    """A process that listens on its usual port, or on a free one where that is taken.

    Args:
        usual: The usual port.
    """

    def __init__(self, usual: int) -> None:
        self.port = usual if is_free(usual) else free_port()

    @property
    @abstractmethod
    def arguments(self) -> list[str]:
        """The last arguments of the process's command, with the port in them."""

    def wait_until_up(self, service: Service, cwd: Path, deadline: float) -> bool:
        """Wait until the process listens; False if it did not come up.

        Args:
            service: The process.
            cwd: Working directory for another start.
            deadline: End of the wait by the monotonic clock.
        """
        moved = False
        while time.monotonic() < deadline:
            if self._listens(service):
                return True
            if not service.alive():
                if moved:
                    break
                moved, before = True, self.arguments
                self.port = free_port()
                service.command = [*service.command[: -len(before)], *self.arguments]
                service.end()
                service.start(cwd)
            time.sleep(0.1)
        return False

    def _listens(self, service: Service) -> bool:
        if service.process is None or not service.alive():
            return False
        try:
            found = psutil.Process(service.process.pid).net_connections("tcp")
        except psutil.Error:
            return False
        return any(one.status == psutil.CONN_LISTEN and one.laddr.port == self.port for one in found if one.laddr)
