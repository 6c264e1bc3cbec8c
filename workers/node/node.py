"""Runs the processes of one machine: ``celora node`` (its workers) and, with a control worker, ``celora up``."""

import logging
import os
import sys
import time
from collections.abc import Callable

from sqlalchemy import select

from ...errors import UnavailableError
from ...models.database import Database
from ...models.scope.scope import Scope
from ...models.tables import Worker
from ...settings.gpus import gpu_catalogue
from ...settings.permissions import protect
from ...settings.settings import Settings
from .. import queues
from ..gpu import devices
from ..requirements import require_training
from ..signal_files import Markers
from . import answer_process
from .api_process import PROGRAM, ApiListener
from .flower_process import FlowerPage, installed
from .processes import Service, Services

logger = logging.getLogger(__name__)

READY_S = 60.0
WATCH_S = 0.5


class Node:
    """Starts the workers of this machine: one for each GPU (or one for its CPU), and one that prepares data.

    Args:
        settings: Settings of the installation.
        control: Start the control worker and beat, too.
        prep: Start a prep worker.
        flower: Start Flower where it is installed.
        api: The HTTP API to start.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        control: bool = False,
        prep: bool = True,
        flower: bool = False,
        api: ApiListener | None = None,
    ) -> None:
        self.settings = settings
        self._control, self._prep, self._flower = control, prep, flower
        self._page: FlowerPage | None = None
        self._api = api
        markers = Markers(settings.home / "run")
        self.services = Services(settings.home, stays_away=lambda pid: markers.left(pid).exists())
        self.lines: list[str] = []

    def start(self) -> None:
        """Start the processes; ``ready`` waits for them.

        Raises:
            UnavailableError: The training libraries are not installed here.
        """
        require_training()
        protect(self.settings)
        if self._control:
            self._worker("control", ["-n", "control@%h", "-Q", queues.ENTRY, "-c", "2"])
            self._beat()
        if self._prep:
            self._worker("prep", ["-n", "prep@%h", "-Q", queues.PREP, "-c", str(self.settings.prep_slots)])
        found = devices(gpu_catalogue(self.settings.gpus))
        for index in range(max(1, len(found))):
            gpu_type = found[index].gpu_type if found else "cpu"
            self._worker(f"{gpu_type}-{index}", ["--gpu", str(index)])
        if self._api is not None:
            self._service("api", [*PROGRAM, *self._api.arguments])
            self._answer_host()
        if self._flower:
            self._start_flower()

    def ready(self, database: Database, timeout_s: float = READY_S) -> None:
        """Wait until every worker has registered in the record, and for API and Flower, whose failure is no error.

        Raises:
            UnavailableError: A worker did not register; its log is named.
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
        for name, listener in (("api", self._api), ("flower", self._page)):
            if listener is not None:
                service = next(one for one in self.services.all if one.name == name)
                self.lines.append(listener.await_up(service, self.settings.home, deadline))

    def watch(self, stopped: Callable[[], bool], beside: Callable[[], None] | None = None) -> None:
        """Keep the processes running until ``stopped``; ``beside`` is called in each round."""
        while not stopped():
            self.services.restart_ended()
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

    def _answer_host(self) -> None:
        """Start the answer host beside the API, which alone can ask it: its socket is a file of this machine."""
        settings = self.settings
        if answer_process.starts_here(settings):
            self.services.start(
                Service(
                    name=answer_process.NAME,
                    command=[sys.executable, *answer_process.arguments_of(settings, stay=True)],
                    environment=answer_process.environment_of(settings),
                    log=answer_process.log_of(settings),
                    log_bytes=settings.service_log_bytes,
                )
            )

    def _start_flower(self) -> None:
        if not installed():
            self.lines.append("Flower is not installed (pip install 'celora[flower]')")
            return
        self._page = FlowerPage(self.settings)
        self._celery("flower", self._page.arguments, self._page.environment)

    def _celery(self, name: str, arguments: list[str], extra: dict[str, str] | None = None) -> None:
        self._service(name, ["-m", "celery", "-A", "celora.workers", *arguments], extra)

    def _service(self, name: str, words: list[str], extra: dict[str, str] | None = None) -> None:
        """Start a process of this Python."""
        self.services.start(
            Service(
                name=name,
                command=[sys.executable, *words],
                environment={
                    **os.environ,
                    **environment(self.settings),
                    **worker_environment(self.settings),
                    **special_environment(self.settings),
                    **(extra or {}),
                },
                log=self.settings.logs / f"{name}.log",
                log_bytes=self.settings.service_log_bytes,
            )
        )


def environment(settings: Settings) -> dict[str, str]:
    """Build the variables by which other programs find an installation; celora.env holds them."""
    return {
        "CELORA_HOME": str(settings.home),
        "CELORA_BROKER_URL": settings.broker_url,
        "CELORA_RESULT_BACKEND": settings.result_backend or settings.broker_url,
        "CELORA_DATABASE_URL": settings.database,
    }


def worker_environment(settings: Settings) -> dict[str, str]:
    """Build the variables that celora's own processes have beside those of ``environment``."""
    return {"CELORA_WORKER_BROKER_URL": settings.worker_broker_url} if settings.worker_broker_url else {}


def special_environment(settings: Settings) -> dict[str, str]:
    """Build the variables that make this machine's GPU workers special: their labels, and their tenant."""
    return {"CELORA_LABELS": settings.labels, "CELORA_RESERVED_FOR": settings.reserved_for}


def _registered(database: Database) -> set[int]:
    with database.session(Scope.everything) as session:
        return set(session.scalars(select(Worker.pid).where(Worker.status == "online")))
