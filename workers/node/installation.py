"""Runs a whole installation on one machine: an embedded broker where none is set, the record, and every process."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from ...errors import SettingsError
from ...models.database import Database
from ...settings.permissions import protect
from ...settings.redaction import without_password
from ...settings.settings import Settings, get_settings, load_settings
from ...storage.file_lock import locked_if_free
from ...storage.wal_tail import cut_bytes
from ..requirements import require_training
from .api_process import ApiListener, installed
from .broker_server import write_private
from .embedded_broker import EmbeddedBroker
from .node import Node, environment, worker_environment
from .record_identity import forget_record, remember_record

FILES = ("celora.env", "worker.env")

logger = logging.getLogger(__name__)


class Installation:
    """Runs the whole system on one machine, from ``with`` to the end of the block.

    Args:
        flower: Whether to start Flower, where it is installed.
        api: Whether to start the HTTP API, where it is installed.
    """

    def __init__(self, *, flower: bool = True, api: bool = True) -> None:
        self._base = load_settings(running=False)
        self._broker: EmbeddedBroker | None = None
        self._lock = ExitStack()
        self._flower, self._wants_api = flower, api
        self._api: ApiListener | None = None
        self.node: Node | None = None
        self.settings = self._base

    def __enter__(self) -> Self:
        require_training()
        protect(self._base)
        self._claim_home()
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def describe(self) -> list[str]:
        """List the addresses and folders of the installation, one line each."""
        assert self.node is not None  # noqa: S101  (inside the with block)
        broker = self._broker.address if self._broker else without_password(self.settings.broker_url)
        return [
            f"home {self.settings.home}",
            f"broker {broker}" + (" (embedded Valkey)" if self._broker else ""),
            f"record {without_password(self.settings.database)}",
            f"artifacts {self.settings.artifacts}",
            *self.node.lines,
            *(["the HTTP API is not installed (pip install 'celora[api]')"] if self._lacks_api else []),
            f"for other programs: source {self.settings.home / 'celora.env'}",
        ]

    @property
    def _lacks_api(self) -> bool:
        return self._wants_api and self._api is None

    def wait(self, stopped: Callable[[], bool]) -> None:
        """Keep the processes and the embedded broker running until ``stopped``."""
        assert self.node is not None  # noqa: S101  (inside the with block)
        self.node.watch(stopped, self._broker.restart_if_ended if self._broker else None)

    def _start(self) -> None:
        broker_url, worker_url = self._base.broker_url, self._base.worker_broker_url
        if worker_url and not broker_url:
            raise SettingsError(
                "CELORA_WORKER_BROKER_URL is set and CELORA_BROKER_URL is not, so applications would find no broker.",
                hint="Set CELORA_BROKER_URL to the URL that applications may use.",
            )
        if not broker_url:
            self._broker = EmbeddedBroker(self._base.home / "broker")
            self._broker.start()
            broker_url, worker_url = self._broker.url, self._broker.worker_url
        self.settings = load_settings(
            running=False,
            broker_url=broker_url,
            worker_broker_url=worker_url,
            result_backend=self._base.result_backend or broker_url,
            database_url=self._base.database,
        )
        self._api = ApiListener() if self._wants_api and installed() else None
        _write_environment(self.settings, self._api)
        get_settings.cache_clear()
        _tell_cut(self.settings.database)
        database = Database(self.settings.database)
        database.migrate()
        remember_record(self.settings, database)
        self.node = Node(self.settings, control=True, flower=self._flower, api=self._api)
        self.node.start()
        chosen = self._api.port if self._api else None
        self.node.ready(database)
        if self._api is not None and self._api.port != chosen:
            _write_environment(self.settings, self._api)
        database.dispose()

    def _stop(self) -> None:
        if self.node is not None:
            self.node.stop()
        if self._broker is not None:
            self._broker.stop()
        self._lock.close()
        if self.settings.home.exists():
            forget_record(self.settings)
            for name in FILES:
                (self.settings.home / name).unlink(missing_ok=True)

    def _claim_home(self) -> None:
        home = self._base.home
        if self._lock.enter_context(locked_if_free(home / "up.lock")) is None:
            raise SettingsError(
                f"an installation runs in {home} already.", hint="Stop it first, or set CELORA_HOME to another folder."
            )


def _tell_cut(url: str) -> None:
    """Log that a power-off cut the record's last transactions; SQLite itself repairs the record silently."""
    if not url.startswith("sqlite:///"):
        return
    record = Path(url.removeprefix("sqlite:///"))
    if cut := cut_bytes(record):
        logger.warning(
            "the end of the log of the record %s was cut: %d bytes after its last whole transaction are dropped, "
            "and the record goes on from there",
            record,
            cut,
        )


def _write_environment(settings: Settings, api: ApiListener | None = None) -> None:
    """Write the variables of applications to one file, and those of celora's own processes to another."""
    applications = environment(settings) | ({"CELORA_API_URL": api.url} if api else {})
    for name, variables in zip(FILES, (applications, worker_environment(settings)), strict=True):
        lines = "".join(f"export {variable}='{value}'\n" for variable, value in variables.items())
        write_private(settings.home / name, lines)
