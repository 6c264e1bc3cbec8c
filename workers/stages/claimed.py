"""Defines a claimed stage: one frozen record of the job, its claim and all that the stage needs to run.

Unusual: ``is_draining`` looks a drain up by the job, because several stages may run in one process. A drain is a signal
file that the worker writes for its children, or an event that ``run-job`` registers.
"""

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from ...models.database import Database
from ...models.events import Level, record_event
from ...models.jobs.progress import record_progress
from ...models.rows import Claim
from ...models.scope.scope import Scope
from ...models.spec import JobSpec
from ...models.states import Stage
from ...models.tables import Job
from ...settings.settings import Settings
from ..gpu_option import pinned_device
from ..lease import Lease
from ..signal_files import Markers
from ..trainer.threads import trainer_threads
from .workspace import Workspace

Report = dict[str, str | int]
"""The result of a stage's message: job, stage, attempt."""


@dataclass(frozen=True, kw_only=True)
class ClaimedStage:
    """A claimed stage of a job.

    Attributes:
        job: The row as it was at the claim, detached from the record.
        stage: The stage.
        spec: The job's validated spec.
        claim: The claim: job, attempt, worker and price.
        lease: Renews the claim while the stage runs.
        workspace: The folders of this attempt.
        settings: Settings of the installation.
        database: The record.
    """

    job: Job
    stage: Stage
    spec: JobSpec
    claim: Claim
    lease: Lease
    workspace: Workspace
    settings: Settings
    database: Database

    @property
    def device(self) -> str:
        """Return torch's name of the device that this worker is pinned to."""
        pinned = pinned_device()
        return "cuda" if pinned and pinned[2] else "cpu"

    @property
    def hosts_trainers(self) -> bool:
        """Return whether the stage may run in the trainer host of this worker."""
        return self.stage.on_gpu and self.settings.hosts_trainers(cuda=self.device == "cuda")

    @property
    def report(self) -> Report:
        """The result of the stage's message."""
        return {"job": self.claim.job_id, "stage": str(self.stage), "attempt": self.claim.attempt}


def note(stage: ClaimedStage, level: Level, kind: str, message: str) -> None:
    """Write an event of the job, unless the claim is lost."""
    with stage.database.transaction(Scope.everything) as session:
        if record_progress(session, stage.claim, {}):
            record_event(session, stage.claim.job_id, stage.claim.attempt, level, kind, message, {})


def threads_of(stage: ClaimedStage) -> int:
    """Return the CPU threads of the stage's trainer: its share of this machine's cores."""
    with stage.database.session(Scope.everything) as session:
        return trainer_threads(session, stage.settings)


_drains: dict[str, threading.Event] = {}
"""The event of each job that this process runs in the foreground; it is set when the job must be returned."""


@contextmanager
def drain_on(leaving: threading.Event, job_id: str) -> Generator[None]:
    """Drain a job's stages of this process once an event is set; for a process that is no worker's child."""
    _drains[job_id] = leaving
    try:
        yield
    finally:
        del _drains[job_id]


def is_draining(stage: ClaimedStage) -> bool:
    """Return whether the job must be returned at its next checkpoint, because the worker shuts down."""
    leaving = _drains.get(stage.claim.job_id)
    if leaving is not None and leaving.is_set():
        return True
    return Markers(stage.settings.home / "run").drain(os.getppid()).exists()
