"""Registers the process of a job in the foreground in the record, as a worker of kind ``job``.

A scheduling round gives no work to such a worker. Its row shows which process runs the job, and a drain that a person
requests reaches the process by the row.
"""

import logging
import os
import platform
import threading
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from ...errors import UnavailableError
from ...models import workers
from ...models.database import Database
from ...models.scope.scope import Scope
from ...settings.settings import Settings
from ..gpu import Device

logger = logging.getLogger(__name__)

LEAVE_S = 5.0
"""Seconds that the end of a presence waits for its thread."""


class Presence:
    """Registers this process as a worker, renews its heartbeat on a thread, and marks it offline at the end.

    Args:
        database: The record.
        settings: Settings of the installation.
        worker_id: The worker's name.
        device: The device of this process.
        leaving: Set when a drain of the worker is requested.
    """

    def __init__(
        self, database: Database, settings: Settings, worker_id: str, device: Device, leaving: threading.Event
    ) -> None:
        self.worker_id = worker_id[:255]
        self._database, self._settings, self._device, self._leaving = database, settings, device, leaving
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_heartbeat, name="presence", daemon=True)

    def __enter__(self) -> Self:
        self._register()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=LEAVE_S)
        try:
            with self._database.transaction(Scope.everything) as session:
                workers.mark_offline(session, self.worker_id)
        except (SQLAlchemyError, UnavailableError) as away:
            logger.warning("this process could not be marked offline in the record (%s)", away)

    def _register(self) -> None:
        with self._database.transaction(Scope.everything) as session:
            workers.register(
                session,
                self.worker_id,
                host=platform.node(),
                kind="job",
                gpu_type=self._device.gpu_type,
                device_index=self._device.index,
                device_uuid=self._device.uuid,
                memory_bytes=self._device.memory_bytes,
                slots=1,
                pid=os.getpid(),
                versions={"python": platform.python_version()},
                queues=[],
            )

    def _keep_heartbeat(self) -> None:
        while not self._stop.wait(self._settings.heartbeat_s):
            try:
                with self._database.transaction(Scope.everything) as session:
                    row = workers.record_heartbeat(session, self.worker_id)
                if row is None:
                    self._register()
                elif row.drain_asked:
                    logger.warning("somebody asked this process to drain")
                    self._leaving.set()
            except (SQLAlchemyError, UnavailableError) as away:
                logger.warning("the record cannot be reached (%s); trying again", away)
