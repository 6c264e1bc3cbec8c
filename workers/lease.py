"""Renews the lease of a claimed job while a worker runs one of its stages.

A thread renews the lease, also while a model loads or a checkpoint is written. A database that cannot be reached does
not stop the stage: a late renewal is valid unless another worker claimed the attempt, so the thread keeps trying.
"""

import logging
import threading
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from ..errors import UnavailableError
from ..models.database import Database
from ..models.jobs.transitions import renew
from ..models.rows import Claim
from ..models.scope.scope import Scope
from ..settings.failpoints import hit
from .logging import job_thread

logger = logging.getLogger(__name__)


class Lease:
    """Renews the lease of a claim from ``with`` to the end of the block.

    Args:
        database: The record.
        claim: The job, its attempt and the worker.
        lease_s: Seconds for which one renewal lasts.
        heartbeat_s: Seconds between renewals.
    """

    def __init__(self, database: Database, claim: Claim, *, lease_s: float, heartbeat_s: float) -> None:
        self.claim = claim
        self._database, self._lease_s, self._heartbeat_s = database, lease_s, heartbeat_s
        self._stop, self._lost = threading.Event(), threading.Event()
        self._cancel, self._pause = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def lost(self) -> bool:
        """Return whether another worker owns the job now; the holder of this lease must then change nothing more."""
        return self._lost.is_set()

    @property
    def cancel_requested(self) -> bool:
        """Return whether a cancel of the job was requested."""
        return self._cancel.is_set()

    @property
    def pause_requested(self) -> bool:
        """Return whether a pause of the job was requested."""
        return self._pause.is_set()

    def __enter__(self) -> Self:
        self._thread = job_thread(self._keep, f"lease-{self.claim.job_id}")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * self._heartbeat_s)

    def _keep(self) -> None:
        pause_s = self._heartbeat_s
        while not self._stop.wait(pause_s):
            try:
                self._renew()
                pause_s = self._heartbeat_s
            except (SQLAlchemyError, UnavailableError) as error:
                logger.warning("job %s: the lease could not be renewed (%s); trying again", self.claim.job_id, error)
                pause_s = min(self._heartbeat_s, 5.0)

    def _renew(self) -> None:
        with self._database.transaction(Scope.everything) as session:
            answer = renew(session, self.claim, self._lease_s)
            hit("lease.renewing")
        hit("lease.renewed")
        if answer == "cancel":
            self._cancel.set()
        elif answer == "pause":
            self._pause.set()
        elif answer == "lost":
            self._lost.set()
