"""A machine's part in an installation: ``celora node`` (its workers) and ``celora up`` (everything, on one machine)."""

import fcntl
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from sqlalchemy import select

from ..models.database import Database
from ..models.tables import Worker
from ..settings.errors import SettingsError, UnavailableError
from ..settings.gpus import gpu_catalogue
from ..settings.settings import Settings, get_settings, load_settings
from . import queues
from .broker import EmbeddedBroker
from .flower import FlowerPage, installed
from .gpu import devices
from .markers import Markers
from .parts import require_training
from .services import Service, Services

logger = logging.getLogger(__name__)

READY_S = 60.0
WATCH_S = 0.5


class Node:
    """The workers of this machine: one for each GPU (or one for its CPU), and one that prepares data.

    Args:
        settings: Of the installation.
        control: Whether to start the control worker and beat, too.
        prep: Whether to start a prep worker.
        flower: Whether to start Flower, where it is installed.
    """

    def __init__(self, settings: Settings, *, control: bool = False, prep: bool = True, flower: bool = False) -> None:
        self.settings = settings
        self._control, self._prep, self._flower = control, prep, flower
        self._page: FlowerPage | None = None
        markers = Markers(settings.home / "run")
        self.services = Services(settings.home, stays_away=lambda pid: markers.left(pid).exists())
        self.lines: list[str] = []

    def start(self) -> None:
        """Start the processes; ``ready`` waits for them.

        Raises:
            UnavailableError: What training needs is not installed here.
        """
        require_training()
        if self._control:
            self._worker("control", ["-n", "control@%h", "-Q", queues.ENTRY, "-c", "2"])
            self._beat()
        if self._prep:
            self._worker("prep", ["-n", "prep@%h", "-Q", queues.PREP, "-c", str(self.settings.prep_slots)])
        found = devices(gpu_catalogue(self.settings.gpus))
        for index in range(max(1, len(found))):
            gpu_type = found[index].gpu_type if found else "cpu"
            self._worker(f"{gpu_type}-{index}", ["--gpu", str(index)])
        if self._flower:
            self._start_flower()

    def ready(self, database: Database, timeout_s: float = READY_S) -> None:
        """Wait until every worker has registered in the record, and for Flower, without which all goes on.

        Raises:
            UnavailableError: One did not; its log is named.
        """
        waiting = [service for service in self.services.all if "worker" in service.command]
        deadline = time.monotonic() + timeout_s
        while waiting:
            registered = _registered(database)
            waiting = [s for s in waiting if not (s.process and s.process.pid in registered)]
            ended = [s for s in waiting if not s.alive()]
            if ended or (waiting and time.monotonic() > deadline):
                late = (ended or waiting)[0]
                raise UnavailableError(f"{late.name} did not come up.", hint=f"Its log is {late.log}.")
            time.sleep(0.1)
        if self._page is not None:
            service = next(one for one in self.services.all if one.name == "flower")
            self.lines.append(self._page.await_up(service, self.settings.home, deadline))

    def watch(self, stopped: Callable[[], bool], beside: Callable[[], None] | None = None) -> None:
        """Keep the processes running until ``stopped``; ``beside`` looks after what is none of ours."""
        while not stopped():
            self.services.look()
            if beside is not None:
                beside()
            time.sleep(WATCH_S)

    def stop(self) -> None:
        """Drain and stop every process."""
        self.services.stop(self.settings.grace_s)

    def _worker(self, name: str, options: list[str]) -> None:
        self._celery(
            name,
            ["worker", *options, "--pool", "prefork", "--disable-prefetch", "-E", "--without-gossip",
             "--without-mingle", "--loglevel", "INFO"],
        )  # fmt: skip
        self.lines.append(f"worker {name}")

    def _beat(self) -> None:
        schedule = self.settings.home / "run" / "beat-schedule"
        schedule.parent.mkdir(parents=True, exist_ok=True)
        self._celery("beat", ["beat", "--schedule", str(schedule), "--pidfile", "", "--loglevel", "INFO"])

    def _start_flower(self) -> None:
        if not installed():
            self.lines.append("Flower is not installed (pip install 'celora[flower]')")
            return
        self._page = FlowerPage(self.settings)
        self._celery("flower", self._page.arguments, self._page.environment)

    def _celery(self, name: str, arguments: list[str], extra: dict[str, str] | None = None) -> None:
        self.services.start(
            Service(
                name=name,
                command=[sys.executable, "-m", "celery", "-A", "celora.workers", *arguments],
                environment={**os.environ, **environment(self.settings), **(extra or {})},
                log=self.settings.logs / f"{name}.log",
                log_bytes=self.settings.service_log_bytes,
            )
        )


class Installation:
    """The whole system on one machine, from ``with`` to the end of the block.

    Args:
        flower: Whether to start Flower, where it is installed.
    """

    def __init__(self, *, flower: bool = True) -> None:
        self._base = load_settings(running=False)
        self._broker: EmbeddedBroker | None = None
        self._lock: IO[str] | None = None
        self._flower = flower
        self.node: Node | None = None
        self.settings = self._base

    def __enter__(self) -> Self:
        require_training()
        self._base.home.mkdir(parents=True, exist_ok=True)
        self._lock = _only_one(self._base.home)
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
        """Where everything listens, a line each."""
        assert self.node is not None  # noqa: S101  (inside the with block)
        broker = self._broker.address if self._broker else _without_password(self.settings.broker_url)
        return [
            f"home {self.settings.home}",
            f"broker {broker}" + (" (embedded Valkey)" if self._broker else ""),
            f"record {_without_password(self.settings.database)}",
            f"artifacts {self.settings.artifacts}",
            *self.node.lines,
            f"for other programs: source {self.settings.home / 'celora.env'}",
        ]

    def wait(self, stopped: Callable[[], bool]) -> None:
        """Keep everything running until ``stopped``."""
        assert self.node is not None  # noqa: S101  (inside the with block)
        self.node.watch(stopped, self._broker.look if self._broker else None)

    def _start(self) -> None:
        broker_url = self._base.broker_url
        if not broker_url:
            self._broker = EmbeddedBroker(self._base.home / "broker")
            self._broker.start()
            broker_url = self._broker.url
        self.settings = load_settings(
            running=False,
            broker_url=broker_url,
            result_backend=self._base.result_backend or broker_url,
            database_url=self._base.database,
        )
        _write_environment(self.settings)
        get_settings.cache_clear()
        database = Database(self.settings.database)
        database.migrate()
        self.node = Node(self.settings, control=True, flower=self._flower)
        self.node.start()
        self.node.ready(database)
        database.dispose()

    def _stop(self) -> None:
        if self.node is not None:
            self.node.stop()
        if self._broker is not None:
            self._broker.stop()
        if self._lock is not None:
            self._lock.close()
        if self.settings.home.exists():
            (self.settings.home / "celora.env").unlink(missing_ok=True)


def environment(settings: Settings) -> dict[str, str]:
    """What every process of an installation carries in its environment."""
    return {
        "CELORA_HOME": str(settings.home),
        "CELORA_BROKER_URL": settings.broker_url,
        "CELORA_RESULT_BACKEND": settings.result_backend or settings.broker_url,
        "CELORA_DATABASE_URL": settings.database,
    }


def _write_environment(settings: Settings) -> None:
    path = settings.home / "celora.env"
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        for name, value in environment(settings).items():
            file.write(f"export {name}='{value}'\n")


def _only_one(home: Path) -> IO[str]:
    lock = (home / "up.lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise SettingsError(
            f"an installation runs in {home} already.", hint="Stop it first, or set CELORA_HOME to another folder."
        ) from None
    return lock


def _registered(database: Database) -> set[int]:
    with database.session() as session:
        return set(session.scalars(select(Worker.pid).where(Worker.status == "online")))


def _without_password(url: str) -> str:
    scheme, found, rest = url.partition("://")
    return f"{scheme}://{rest.rsplit('@', 1)[-1]}" if found else url
