"""The lease that a worker holds on a job while it carries one of its stages.

A thread of its own renews it, also while a model loads or a checkpoint is written. A database that cannot be reached
does not stop the work: a late renewal counts as long as nobody else claimed the attempt, so the thread keeps asking.
"""

import logging
import threading
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from ..models import transitions
from ..models.database import Database
from ..settings.errors import UnavailableError
from ..settings.failpoints import hit

logger = logging.getLogger(__name__)


class Lease:
    """Keeps a claim alive from ``with`` to the end of the block.

    Args:
        database: The record.
        job_id: The job that was claimed.
        attempt: Its attempt, the fencing token.
        worker_id: Who claimed it.
        lease_s: Seconds that one renewal is good for.
        heartbeat_s: Seconds between renewals.
    """

    def __init__(
        self, database: Database, job_id: str, attempt: int, worker_id: str, *, lease_s: float, heartbeat_s: float
    ) -> None:
        self.job_id, self.attempt, self.worker_id = job_id, attempt, worker_id
        self._database, self._lease_s, self._heartbeat_s = database, lease_s, heartbeat_s
        self._stop, self._lost = threading.Event(), threading.Event()
        self._cancel, self._pause = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{job_id}", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether somebody else owns the job now; whoever holds this lease must touch nothing more."""
        return self._lost.is_set()

    @property
    def cancel_requested(self) -> bool:
        """Whether a person asked for the job's end."""
        return self._cancel.is_set()

    @property
    def pause_requested(self) -> bool:
        """Whether a person asked that the job stops for now."""
        return self._pause.is_set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=2 * self._heartbeat_s)

    def _keep(self) -> None:
        pause_s = self._heartbeat_s
        while not self._stop.wait(pause_s):
            try:
                self._renew()
                pause_s = self._heartbeat_s
            except (SQLAlchemyError, UnavailableError) as error:
                logger.warning("job %s: the lease could not be renewed (%s); trying again", self.job_id, error)
                pause_s = min(self._heartbeat_s, 5.0)

    def _renew(self) -> None:
        with self._database.transaction() as session:
            answer = transitions.renew(session, self.job_id, self.attempt, self.worker_id, self._lease_s)
            hit("lease.renewing")
        hit("lease.renewed")
        if answer == "cancel":
            self._cancel.set()
        elif answer == "pause":
            self._pause.set()
        elif answer == "lost":
            self._lost.set()
